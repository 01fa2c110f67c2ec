package streams

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/guest/protocol/fifo"
)

// containerdSockets are where a containerd listens in its container: one of its own, that of a Docker, that of a k3s.
var containerdSockets = []string{
	"/run/containerd/containerd.sock", "/run/docker/containerd/containerd.sock", "/run/k3s/containerd/containerd.sock",
}

const (
	// outputDir is where FIFOs are made in a container.
	outputDir = "/run/limpet/output"
	// outputMode lets a program of any user write to a FIFO whose name it was told, and outputDirMode lets it get there.
	outputMode    = 0o622
	outputDirMode = 0o711
)

// dialContainerd connects to the containerd that runs in the container that was started first of those that run one.
func (s *Server) dialContainerd() (protocol.HalfCloser, error) {
	roots := s.guest.Roots()
	defer closeAll(roots)
	errs := []error{fmt.Errorf("connect to a containerd in the guest: no container that runs has one: %w", errdefs.ErrNotFound)}
	for _, root := range roots {
		for _, path := range containerdSockets {
			conn, err := dialIn(root, path)
			if err == nil {
				return conn, nil
			}
			if !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return nil, errors.Join(errs...)
}

// dialIn connects to a unix socket below a root.
func dialIn(root *os.File, path string) (protocol.HalfCloser, error) {
	socket, err := openIn(root, path, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	defer socket.Close()
	conn, err := dial("unix", fmt.Sprintf("/proc/self/fd/%d", socket.Fd()))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return conn, nil
}

// makeOutput makes a FIFO in the container whose containerd a visitor reaches, so that both know it by the same path; where there is none,
// in the container that was started first.
func (s *Server) makeOutput() (protocol.HalfCloser, error) {
	roots := s.guest.Roots()
	defer closeAll(roots)
	if len(roots) == 0 {
		return nil, fmt.Errorf("make a FIFO in a container: none runs: %w", errdefs.ErrFailedPrecondition)
	}
	place := roots[0]
	for _, root := range roots {
		if hasContainerd(root) {
			place = root
			break
		}
	}
	dir, err := makeDirs(place, outputDir)
	if err != nil {
		return nil, fmt.Errorf("make a FIFO in a container: %w", err)
	}
	return fifo.New(dir, outputDir, outputMode)
}

// hasContainerd tells whether a containerd listens, or has listened, in a container.
func hasContainerd(root *os.File) bool {
	for _, path := range containerdSockets {
		if socket, err := openIn(root, path, unix.O_PATH); err == nil {
			socket.Close()
			return true
		}
	}
	return false
}

// makeDirs makes a directory below a root, with those that lead there, as far as they are missing, and opens it.
func makeDirs(root *os.File, path string) (*os.File, error) {
	var dir *os.File
	parent, way := root, ""
	for name := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		way += "/" + name
		err := unix.Mkdirat(int(parent.Fd()), name, outputDirMode)
		if dir != nil {
			dir.Close()
		}
		if err != nil && err != unix.EEXIST {
			return nil, fmt.Errorf("make %s: %w", way, err)
		}
		if dir, err = openIn(root, way, unix.O_PATH|unix.O_DIRECTORY); err != nil {
			return nil, err
		}
		parent = dir
	}
	return dir, nil
}

// openIn opens a path as who has that root sees it: no link leads out of it.
func openIn(root *os.File, path string, flags uint64) (*os.File, error) {
	fd, err := unix.Openat2(int(root.Fd()), path, &unix.OpenHow{
		Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

func closeAll(files []*os.File) {
	for _, file := range files {
		file.Close()
	}
}
