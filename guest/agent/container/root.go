package container

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Root opens a container's root directory as a path (O_PATH): as its first process sees it, mounts included, or if none runs without them.
// It is the caller's to close.
func (s *Set) Root(id string) (*os.File, error) {
	c, err := s.container(id)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	init := c.init
	s.mu.Unlock()
	if init != nil {
		if root, err := init.root(); err == nil || init.running() {
			return root, err
		}
	}
	return openPath(c.rootfs)
}

// Roots opens the root directories of the containers that run, as their processes see them, in the order of their starts. They are the
// caller's to close.
func (s *Set) Roots() []*os.File {
	s.mu.Lock()
	var inits []*Process
	for _, c := range s.containers {
		if c.state == running {
			inits = append(inits, c.init)
		}
	}
	s.mu.Unlock()
	slices.SortFunc(inits, func(a, b *Process) int { return a.began.Compare(b.began) })
	var roots []*os.File
	for _, init := range inits {
		if root, err := init.root(); err == nil { // else it has ended meanwhile
			roots = append(roots, root)
		}
	}
	return roots
}

// root opens the root directory of a process that runs.
func (p *Process) root() (*os.File, error) {
	pidfd, err := p.child.Pidfd()
	if err != nil {
		return nil, err
	}
	defer unix.Close(pidfd)
	root, err := openPath(fmt.Sprintf("/proc/%d/root", p.child.Pid()))
	if err != nil {
		return nil, fmt.Errorf("open the root of process %d: %w", p.requestID, err)
	}
	if err := unix.PidfdSendSignal(pidfd, 0, nil, 0); err != nil { // then it may be another's
		return nil, errors.Join(fmt.Errorf("open the root of process %d: %w", p.requestID, err), root.Close())
	}
	return root, nil
}

func openPath(path string) (*os.File, error) {
	return os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY, 0)
}
