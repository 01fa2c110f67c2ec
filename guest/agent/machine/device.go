package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Await waits for a device: it calls try now, once the kernel has looked for new devices, and after every event of its device model, until
// try says that it is done or fails. It listens before it tries again, so no event is missed.
func Await(ctx context.Context, try func() (done bool, err error)) error {
	if done, err := try(); done || err != nil {
		return err
	}
	events, err := openUevents()
	if err != nil {
		return fmt.Errorf("listen for device events: %w", err)
	}
	defer events.Close()
	if err := FindDevices(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { events.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	// Larger than any event: its content does not matter, that there was one does.
	var event [4096]byte
	for {
		done, err := try()
		if done || err != nil {
			return err
		}
		if _, err := events.Read(event[:]); err != nil && !errors.Is(err, unix.ENOBUFS) {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("read device events: %w", err)
		}
	}
}

// openUevents opens the kernel's announcements of devices (netlink, multicast group 1). "bind" comes when a driver has taken a
// device and is ready.
func openUevents() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "uevents"), nil
}

// Vsock is the machine's vsock device, which may still be to come.
type Vsock struct{ fd int }

// OpenVsock opens it, for as long as the machine runs. /dev/vsock is there from the start; what tells that there is a device behind it is
// that the machine has an id.
func OpenVsock() (Vsock, error) {
	fd, err := unix.Open("/dev/vsock", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return Vsock{}, fmt.Errorf("open the vsock device: %w", err)
	}
	return Vsock{fd}, nil
}

// AwaitCID waits for the device and returns this machine's context id.
func (v Vsock) AwaitCID(ctx context.Context) (cid uint32, err error) {
	err = Await(ctx, func() (bool, error) {
		cid, err = unix.IoctlGetUint32(v.fd, unix.IOCTL_VM_SOCKETS_GET_LOCAL_CID)
		return err == nil && cid != unix.VMADDR_CID_ANY, nil
	})
	if err != nil {
		return 0, fmt.Errorf("wait for the vsock device: %w", err)
	}
	return cid, nil
}

// MountShare mounts the file share (virtio-fs) with the given tag, and waits for its device if it is not there yet.
func MountShare(ctx context.Context, tag, target string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("mount file share %s: %w", tag, err)
	}
	err := Await(ctx, func() (bool, error) {
		err := unix.Mount(tag, target, "virtiofs", 0, "")
		if err == unix.EINVAL {
			return false, nil // no device has this tag
		}
		return err == nil, err
	})
	if err != nil {
		return fmt.Errorf("mount file share %s on %s: %w", tag, target, err)
	}
	return nil
}

// Unmount writes a file system back and takes it away, at once or, if something still uses it, as soon as nothing does.
func Unmount(target string) error {
	unix.Sync()
	err := unix.Unmount(target, 0)
	if err == unix.EBUSY {
		err = unix.Unmount(target, unix.MNT_DETACH)
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", target, err)
	}
	return nil
}
