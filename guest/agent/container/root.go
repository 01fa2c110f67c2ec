package container

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Root opens a container's root directory as a path (O_PATH): as its first process sees it, mounts included, or if none runs without them.
func (s *Set) Root(id string) (*os.File, error) {
	c, err := s.container(id)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	init := c.init
	s.mu.Unlock()
	if init != nil {
		root, err := openPath(fmt.Sprintf("/proc/%d/root", init.child.Pid()))
		if init.running() { // so the pid was not another's meanwhile
			return root, err
		}
		if err == nil {
			root.Close()
		}
	}
	return openPath(c.rootfs)
}

func openPath(path string) (*os.File, error) {
	return os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY, 0)
}
