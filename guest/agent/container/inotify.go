package container

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// changes tells when a file is modified. The kernel modifies a control group's *.events files when their content changes.
type changes struct{ file *os.File }

// watch begins to listen to a file.
func watch(path string) (*changes, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_MODIFY); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	return &changes{os.NewFile(uintptr(fd), "inotify")}, nil
}

// next waits for a change since watch or the last next. It fails once close is called.
func (c *changes) next() error {
	var events [4096]byte // whatever they are: that there are some is enough
	_, err := c.file.Read(events[:])
	return err
}

func (c *changes) close() { c.file.Close() }
