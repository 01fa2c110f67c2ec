package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

// What the host mounts in its file share is a mount of its own in the guest, which the kernel makes when somebody first goes there, in
// the mount namespace of who does, and a file system of its own, which ends with its last mount. The kernel (Linux 6.12,
// virtio_kill_sb) does not wait then for what it still reads in advance for a process that was killed: when the answer comes it uses
// memory that it has given away, and no file of the share is read any more. So the agent has these mounts in its own namespace,
// from before a container's start, and takes them away when all that was asked of them has been answered.

// submounts are the paths of the container's part of the share that the host mounts something on.
func (c *Container) submounts() ([]string, error) {
	part, paths := filepath.Join(c.set.Share, c.id), []string(nil)
	if c.shared {
		part, paths = filepath.Dir(c.rootfs), []string{c.rootfs}
	}
	dir := filepath.Join(part, protocol.MountsDir)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, entry := range entries {
		paths = append(paths, filepath.Join(dir, entry.Name()))
	}
	return paths, nil
}

// prepare checks what the host has put into the share for the container, and mounts it.
func (c *Container) prepare(ctx context.Context) error {
	if err := c.set.Mount(ctx); err != nil {
		return &protocol.Error{Message: err.Error(), Code: protocol.CodeMountFailed}
	}
	if info, err := os.Stat(c.rootfs); err != nil {
		return fmt.Errorf("rootfs: %w", err)
	} else if !info.IsDir() {
		return fmt.Errorf("rootfs %s is not a directory: %w", c.rootfs, errdefs.ErrInvalidArgument)
	}
	return c.mountShared()
}

// mountShared has the kernel make the mounts.
func (c *Container) mountShared() error {
	paths, err := c.submounts()
	if err != nil {
		return fmt.Errorf("look for the mounts of container %s: %w", c.id, err)
	}
	for _, path := range paths {
		var info unix.Statx_t // which goes there, as stat does not
		if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_TYPE, &info); err != nil {
			return fmt.Errorf("mount %s: %w", path, err)
		}
	}
	return nil
}

// unmountShared takes the mounts away. None of the container's processes is left.
func (c *Container) unmountShared() {
	paths, err := c.submounts()
	if err != nil {
		c.logger.Warn("the container's mounts stay", "error", err)
		return
	}
	// The host answers in the order in which it is asked. The first answer comes after those to all reads; files that were closed
	// meanwhile are given back after these, which the second waits for.
	for range 2 {
		if len(paths) == 0 {
			break
		}
		var info unix.Statfs_t
		if err := unix.Statfs(paths[0], &info); err != nil {
			c.logger.Warn("the file share does not answer", "error", err)
		}
	}
	for _, path := range paths {
		err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EBUSY) { // somebody else looks at it
			err = unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		}
		if err != nil && !errors.Is(err, unix.EINVAL) { // nothing is mounted there
			c.logger.Warn("a mount of the container stays", "path", path, "error", err)
		}
	}
}
