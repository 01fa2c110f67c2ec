package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Make makes a network namespace with its loopback up, and mounts it on a new file at path, where it is until Unmake. On error nothing
// is left.
func Make(path string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	file.Close()
	if err := makeAt(path); err != nil {
		return errors.Join(fmt.Errorf("make the network namespace %s: %w", path, err), Unmake(path))
	}
	return nil
}

func makeAt(path string) error {
	own, err := Open(ownPath)
	if err != nil {
		return err
	}
	defer own.Close()
	return own.do(func() error { // which leads the thread back
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		loopback, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(loopback); err != nil {
			return fmt.Errorf("raise its loopback: %w", err)
		}
		return unix.Mount(ownPath, path, "", unix.MS_BIND, "")
	})
}

// Unmake removes what Make made; the namespace lives on as long as somebody is in it. What is not there is no error.
func Unmake(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // no mount, no file
		return fmt.Errorf("unmount the network namespace %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the network namespace: %w", err)
	}
	return nil
}
