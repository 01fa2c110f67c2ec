// Package volume is the file systems that the containers of a sandbox share inside the guest: in its memory, and directories of these.
//
//	           Mount             Unmount
//	(nothing) -------> mounted ----------> (nothing)
//
// A volume is a directory below the root that has a mount on it. The directory's making is what claims its name, so that of two that
// mount it at the same time one is told that it exists.
package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

// Set is the volumes below a directory.
type Set struct{ root string }

// NewSet returns the volumes below root, a directory that is made when it is needed.
func NewSet(root string) *Set { return &Set{root} }

// Mount makes a volume. Its target is a name below the root; one that is there already is an ErrAlreadyExists. On error nothing is left.
func (s *Set) Mount(m protocol.Mount) error {
	plan, err := s.plan(m)
	if err == nil {
		err = s.mount(plan)
	}
	if err != nil {
		return fmt.Errorf("mount volume %.*q: %w", maxShown, m.Target, err)
	}
	return nil
}

func (s *Set) mount(plan plan) error {
	if err := os.MkdirAll(s.root, 0o711); err != nil {
		return err
	}
	if err := os.Mkdir(plan.target, 0o711); err != nil {
		if errors.Is(err, fs.ErrExist) {
			err = errdefs.ErrAlreadyExists
		}
		return err
	}
	var err error
	if plan.source == "" {
		err = unix.Mount("tmpfs", plan.target, "tmpfs", plan.flags, plan.data)
	} else {
		err = s.bind(plan)
	}
	if err != nil {
		return errors.Join(err, os.Remove(plan.target))
	}
	return nil
}

// bind mounts a directory of a volume, which it makes if it is not there. The path to it is the containers' to change: it is followed by
// descriptors, beneath the volume and through no symbolic link.
func (s *Set) bind(plan plan) error {
	dir, err := unix.Open(filepath.Join(s.root, plan.source), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("volume %s: %w", plan.source, err)
	}
	defer func() { unix.Close(dir) }()
	for name := range strings.SplitSeq(plan.path, "/") {
		next, err := enter(dir, name, plan.directory)
		if err != nil {
			return fmt.Errorf("directory %s of volume %s: at %s: %w", plan.path, plan.source, name, err)
		}
		unix.Close(dir)
		dir = next
	}
	tree, err := unix.OpenTree(dir, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("bind %s of volume %s: %w", plan.path, plan.source, err)
	}
	defer unix.Close(tree)
	if err := fit(dir, plan.target); err != nil {
		return err
	}
	return unix.MoveMount(tree, "", unix.AT_FDCWD, plan.target, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// fit makes of a target, an empty directory, a file if a file is to be mounted there.
func fit(source int, target string) error {
	var status unix.Stat_t
	if err := unix.Fstat(source, &status); err != nil || status.Mode&unix.S_IFMT == unix.S_IFDIR {
		return err
	}
	if err := os.Remove(target); err != nil {
		return err
	}
	file, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return file.Close()
}

// enter opens a directory or file of a directory, and makes a directory if there is nothing of that name.
func enter(dir int, name string, like directory) (int, error) {
	how := &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	}
	fd, err := unix.Openat2(dir, name, how)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	if err := unix.Mkdirat(dir, name, 0o700); err != nil {
		return -1, err
	}
	if fd, err = unix.Openat2(dir, name, how); err != nil {
		return -1, err
	}
	err = errors.Join(
		unix.Fchownat(fd, "", int(like.uid), int(like.gid), unix.AT_EMPTY_PATH),
		// An O_PATH descriptor has no other way to its mode.
		unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), like.mode),
	)
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// Unmount takes a volume away, at once for who looks for it, and for those that use it when they end. One that is not there is an
// ErrNotFound.
func (s *Set) Unmount(m protocol.Unmount) error {
	target, err := s.target(m.Target)
	if err == nil {
		err = unmount(target)
	}
	if err != nil {
		return fmt.Errorf("unmount volume %.*q: %w", maxShown, m.Target, err)
	}
	return nil
}

func unmount(target string) error {
	err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EINVAL): // EINVAL: being made by another
		return errdefs.ErrNotFound
	case err != nil:
		return err
	}
	return os.Remove(target)
}
