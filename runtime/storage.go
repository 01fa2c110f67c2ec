package runtime

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/runtime/config"
)

// openStorage makes the file of a sandbox's storage disk; nil if it is to have none. The file has no name: it takes room as the guest fills
// it, and is gone when the machine is, whatever becomes of this process.
func openStorage(settings config.Storage) (*os.File, error) {
	if settings.MiB == 0 {
		return nil, nil
	}
	if err := os.MkdirAll(settings.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of storage disks (storage.dir): %w", err)
	}
	file, err := os.OpenFile(settings.Dir, unix.O_TMPFILE|os.O_RDWR, 0o600)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR) {
		err = fmt.Errorf("%w: its file system has no files without a name: set storage.dir to a directory of one that has, such as ext4", err)
	}
	if err != nil {
		return nil, fmt.Errorf("make a storage disk in %s: %w", settings.Dir, err)
	}
	if err := file.Truncate(int64(settings.MiB) * mebibyte); err != nil {
		err = fmt.Errorf("make a storage disk of %d MiB (storage.mib) in %s: %w", settings.MiB, settings.Dir, err)
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}
