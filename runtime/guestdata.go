package runtime

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/internal/printable"
	"github.com/limpet-run/limpet/runtime/egress"
)

// maxGuestData is the most bytes of a file that the guest is given: a bundle of certificates has a quarter of a mebibyte.
const maxGuestData = 4 << 20

// guestData are the files of the host that the guest may ask for, by name. The guest never names a path.
type guestData map[string]string

// resolvData is the name of the file that says how names are resolved.
const resolvData = "resolv.conf"

// guestData is what the guest may ask for. In a sandbox with an egress policy its resolver is its own.
func (s *Sandbox) guestData(files map[string]string) func(name string) ([]byte, error) {
	return func(name string) ([]byte, error) {
		content, err := guestData(files).read(name)
		if err == nil && name == resolvData && s.egress != nil {
			content = []byte(egress.ForGuest(string(content)))
		}
		return content, err
	}
}

// read returns the content of the file with that name.
func (d guestData) read(name string) ([]byte, error) {
	path := d[name]
	if path == "" {
		return nil, fmt.Errorf("guest_data has no %q: %w", printable.Short(name, maxReason), errdefs.ErrNotFound)
	}
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the host has no file for %q: %w", name, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, unreadable(name, err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxGuestData+1))
	if err != nil {
		return nil, unreadable(name, err)
	}
	if len(content) > maxGuestData {
		return nil, fmt.Errorf("the file for %q has more than %d bytes: %w", name, maxGuestData, errdefs.ErrResourceExhausted)
	}
	return content, nil
}

// unreadable is why a file cannot be read, without its path, which is none of the guest's business.
func unreadable(name string, err error) error {
	if failed, ok := errors.AsType[*fs.PathError](err); ok {
		err = failed.Err
	}
	return fmt.Errorf("the file for %q cannot be read: %w", name, err)
}
