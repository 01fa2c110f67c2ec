package requests

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

// Roots opens the root directory of a container as its processes see it, mounts included.
type Roots func(containerID string) (*os.File, error)

// place is a file, existing or not, in the machine or in a container.
type place struct {
	path      string // as it was asked for
	container string // empty: the machine's own
	below     string // below the machine's or the container's root, without "." and double slashes
}

const (
	// maxPath is the longest path that Linux takes (PATH_MAX).
	maxPath = 4096
	// containerRoot is the directory in protocol.ContainersDir/ID that stands for a container's root.
	containerRoot = "rootfs"
)

// parsePath says where a path leads.
func parsePath(name string) (place, error) {
	switch {
	case !path.IsAbs(name) || len(name) > maxPath || strings.ContainsRune(name, 0):
		return place{}, invalid("path %.64q: want an absolute one of at most %d bytes", name, maxPath)
	case strings.HasSuffix(name, "/") || strings.HasSuffix(name, "/."):
		return place{}, invalid("path %.64q: want that of a file", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return place{}, invalid("path %.64q: .. is refused", name)
		}
	}
	clean := path.Clean(name)
	p := place{path: name, below: clean[1:]}
	inside, ok := strings.CutPrefix(clean, protocol.ContainersDir+"/")
	if !ok {
		return p, nil
	}
	id, rest, _ := strings.Cut(inside, "/")
	below, ok := strings.CutPrefix(rest, containerRoot+"/")
	if !ok {
		return place{}, invalid("path %.64q: a file of a container is named %s/ID/%s/PATH", name, protocol.ContainersDir, containerRoot)
	}
	p.container, p.below = id, below
	return p, nil
}

// open opens the place, or the directory that it is in, as a path (O_PATH). In the machine no symbolic link is followed; in a container
// links are, as its processes follow them, and never lead out of it.
func (p place) open(roots Roots, directory bool) (*os.File, error) {
	how := unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH,
	}
	root, err := p.root(roots)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if p.container != "" {
		how.Resolve = unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_IN_ROOT
	}
	below := p.below
	if directory {
		below = path.Dir(below)
		how.Flags |= unix.O_DIRECTORY
	}
	fd, err := unix.Openat2(int(root.Fd()), below, &how)
	switch err {
	case nil:
		return os.NewFile(uintptr(fd), p.path), nil
	case unix.ELOOP:
		return nil, p.error(errors.New("symbolic links are not followed"))
	case unix.EXDEV:
		return nil, p.error(errors.New("it leads out of the root directory"))
	}
	return nil, p.error(err)
}

func (p place) root(roots Roots) (*os.File, error) {
	if p.container == "" {
		return os.OpenFile("/", unix.O_PATH|unix.O_DIRECTORY, 0)
	}
	return roots(p.container)
}

// name is the last part of the path.
func (p place) name() string { return path.Base(p.below) }

// error is what went wrong with the place.
func (p place) error(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("file %s: %w", p.path, errdefs.ErrNotFound)
	}
	return &protocol.Error{Message: fmt.Sprintf("file %s: %v", p.path, err), Code: protocol.CodeFileIOFailed}
}
