package qemu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/hypervisor/internal/child"
)

// A share's daemon has a mount namespace of its own, whose root is the share's directory. What the guest is to see is mounted there
// and nowhere else: on the host it would be in the way of who removes a directory that has a mount somewhere, and would be left by a
// process that is killed; and a name that the guest put in the place of a directory can lead to nothing of the host's.

// sharedDir is the directory of a share: the one that had the path when the share was plugged, whatever its path is now.
type sharedDir struct {
	path          string // for errors
	device, inode uint64
}

func lookAtShare(path string) (*sharedDir, error) {
	var info unix.Stat_t
	if err := unix.Stat(path, &info); err != nil || info.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil, fmt.Errorf("share %s: not a directory: %w", path, errors.Join(err, errdefs.ErrInvalidArgument))
	}
	return &sharedDir{path: path, device: info.Dev, inode: info.Ino}, nil
}

// AttachMount implements hypervisor.Machine.
func (m *machine) AttachMount(share, path string, tree *os.File) error {
	m.mu.Lock()
	plugged := m.plugged[share]
	m.mu.Unlock()
	if plugged == nil || plugged.daemon == nil {
		return fmt.Errorf("mount in %s of machine %s: the machine has no such share: %w", share, m.plan.config.Name, errdefs.ErrNotFound)
	}
	if !filepath.IsLocal(path) {
		return fmt.Errorf("mount in %s of machine %s: %q is not below it: %w", share, m.plan.config.Name, path, errdefs.ErrInvalidArgument)
	}
	err := inShare(plugged.daemon, plugged.share, func() error {
		return unix.MoveMount(int(tree.Fd()), "", unix.AT_FDCWD, "/"+path, unix.MOVE_MOUNT_F_EMPTY_PATH)
	})
	if err != nil {
		return fmt.Errorf("mount on %s in %s of machine %s: %w", path, share, m.plan.config.Name, plugged.daemon.Explain(err))
	}
	return nil
}

// protectShare makes the directory itself read-only to the guest: it belongs to who attaches mounts.
func protectShare(daemon *child.Child, dir *sharedDir) error {
	err := inShare(daemon, dir, func() error {
		return unix.MountSetattr(unix.AT_FDCWD, "/", 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	})
	if err != nil {
		return fmt.Errorf("make share %s read-only: %w", dir.path, err)
	}
	return nil
}

// inShare calls f in the mount namespace of a share's daemon. It has a thread for that, which ends with it.
func inShare(daemon *child.Child, dir *sharedDir, f func() error) error {
	namespace, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", daemon.Process().PID))
	if err != nil {
		return fmt.Errorf("mount namespace of virtiofsd: %w", err)
	}
	defer namespace.Close()
	// Not the root of its mount namespace, if limpet itself runs in a changed root: a new root is new for virtiofsd only.
	root, err := os.OpenFile(fmt.Sprintf("/proc/%d/root", daemon.Process().PID), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("root of virtiofsd: %w", err)
	}
	defer root.Close()
	return onLastThread(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("leave the directories of the other threads: %w", err)
		}
		if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("enter the mount namespace of virtiofsd: %w", err)
		}
		if err := errors.Join(unix.Fchdir(int(root.Fd())), unix.Chroot(".")); err != nil {
			return fmt.Errorf("enter the root of virtiofsd: %w", err)
		}
		var got unix.Stat_t
		if err := unix.Stat("/", &got); err != nil {
			return fmt.Errorf("look at the root of virtiofsd: %w", err)
		}
		if got.Dev != dir.device || got.Ino != dir.inode {
			return fmt.Errorf("the root of virtiofsd is not %s: %w", dir.path, errdefs.ErrFailedPrecondition)
		}
		return f()
	})
}

// onLastThread calls f on a thread that ends with it, as what f makes of it is of no use to others. The first thread of a process does not
// end, and /proc/self is what that one sees: f is not called there.
func onLastThread(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			result <- f()
			return
		}
		defer runtime.UnlockOSThread()
		result <- onLastThread(f) // on another, as this one is held
	}()
	return <-result
}
