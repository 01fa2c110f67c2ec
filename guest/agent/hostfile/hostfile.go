// Package hostfile brings files of the host to where programs of the guest look for them.
package hostfile

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/internal/atomicfile"
)

// timeout is how long the host may take for a file: it is on its disk. Without one what needs it may work all the same.
const timeout = 5 * time.Second

// places are where the files belong, by the names by which the host gives them: how names are resolved, and whose certificates are
// believed.
var places = map[string]string{
	"resolv.conf":         "/etc/resolv.conf",
	"ca-certificates.crt": "/etc/ssl/certs/ca-certificates.crt",
}

// Bringer brings files that are not there yet. Its method may be called by several goroutines.
type Bringer struct {
	// Get asks the host for a file. errdefs.ErrNotFound: it gives none of that name.
	Get    func(ctx context.Context, name string) ([]byte, error)
	Logger *slog.Logger
	root   string // of the places; empty but in tests

	mu sync.Mutex // held while files are brought: whoever needs them has to wait
}

// Bring brings them. What the host does not give stays missing.
func (b *Bringer) Bring(ctx context.Context) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for name, place := range places {
		err := b.bring(ctx, name, filepath.Join("/", b.root, place))
		if err != nil && !errdefs.IsNotFound(err) {
			b.Logger.Warn("a file of the host is missing in the guest", "name", name, "error", err)
		}
	}
}

func (b *Bringer) bring(ctx context.Context, name, place string) error {
	if _, err := os.Lstat(place); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	content, err := b.Get(ctx, name)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
		return err
	}
	return atomicfile.Write(place, content, 0o644)
}
