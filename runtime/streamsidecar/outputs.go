package streamsidecar

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol/fifo"
)

// outputs is a directory of this host in which a FIFO is made for each visitor who wants one. Who has the directory has its lock, so that
// what is in it otherwise is known to be left over.
type outputs struct {
	path string
	lock *os.File // the directory
}

// openOutputs makes the directory if there is none, and removes the FIFOs that a server left in it that was killed. ErrAlreadyExists:
// another server has it; ErrFailedPrecondition: somebody else could put something in a FIFO's place, which containerd then opened.
func openOutputs(path string) (_ *outputs, err error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of FIFOs: %w", err)
	}
	lock, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the directory of FIFOs: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("another server has the directory of FIFOs %s: choose another one: %w", path, errdefs.ErrAlreadyExists)
	}
	var is unix.Stat_t
	if err := unix.Fstat(int(lock.Fd()), &is); err != nil {
		return nil, fmt.Errorf("look at the directory of FIFOs: %w", err)
	}
	const writableByOthers = 0o022
	if int(is.Uid) != os.Geteuid() || is.Mode&writableByOthers != 0 {
		return nil, fmt.Errorf("the directory of FIFOs %s is another user's, or others may write to it: choose another one: %w", path,
			errdefs.ErrFailedPrecondition)
	}
	entries, err := lock.ReadDir(0)
	if err != nil {
		return nil, fmt.Errorf("read the directory of FIFOs: %w", err)
	}
	for _, entry := range entries {
		if entry.Type() != os.ModeNamedPipe {
			return nil, fmt.Errorf("%s in the directory of FIFOs is none: choose a directory that is used for nothing else: %w",
				filepath.Join(path, entry.Name()), errdefs.ErrFailedPrecondition)
		}
	}
	for _, entry := range entries {
		if err := os.Remove(filepath.Join(path, entry.Name())); err != nil {
			return nil, fmt.Errorf("remove what a server left: %w", err)
		}
	}
	return &outputs{path, lock}, nil
}

// open makes a FIFO, which root may write to.
func (o *outputs) open() (*fifo.Output, error) {
	dir, err := os.Open(o.path)
	if err != nil {
		return nil, fmt.Errorf("make a FIFO: %w", err)
	}
	return fifo.New(dir, o.path, 0o600)
}

// close removes the directory, in which there is no FIFO any more.
func (o *outputs) close() error { return errors.Join(os.Remove(o.path), o.lock.Close()) }
