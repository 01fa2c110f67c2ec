package hostfile

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
)

// TestBring brings what is missing, once, and goes without what the host does not give.
func TestBring(t *testing.T) {
	var asked []string
	given := map[string]error{"resolv.conf": errdefs.ErrNotFound, "ca-certificates.crt": errors.New("no answer")}
	b := Bringer{
		Get: func(_ context.Context, name string) ([]byte, error) {
			asked = append(asked, name)
			return []byte("of the host: " + name), given[name]
		},
		Logger: slog.New(slog.DiscardHandler), root: t.TempDir(),
	}
	for _, step := range []struct {
		give string   // from here on
		asks []string // in the order of their names
	}{
		{"", []string{"ca-certificates.crt", "resolv.conf"}},
		{"resolv.conf", []string{"ca-certificates.crt", "resolv.conf"}},
		{"ca-certificates.crt", []string{"ca-certificates.crt"}},
		{"", nil},
	} {
		given[step.give] = nil
		asked = nil
		b.Bring(t.Context())
		slices.Sort(asked)
		if !reflect.DeepEqual(asked, step.asks) {
			t.Errorf("asked for %q, want %q", asked, step.asks)
		}
	}
	for name, place := range places {
		if text, err := os.ReadFile(filepath.Join(b.root, place)); string(text) != "of the host: "+name || err != nil {
			t.Errorf("%s: %q, %v", place, text, err)
		}
	}
}
