package vsock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"unsafe"

	"github.com/containerd/errdefs"
	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/hypervisor"
)

// vhostDevice is the kernel's vhost-vsock. Each open file of it is one guest's device.
const vhostDevice = "/dev/vhost-vsock"

// anyCID listens for peers of every transport (VMADDR_CID_ANY); who is let in is decided by the peer's CID.
const anyCID = 1<<32 - 1

// cidDraws is how often a CID is drawn that another guest of this host has already. With a thousand guests one draw in two
// million fails.
const cidDraws = 16

// kernelDevice is a Device by the kernel.
type kernelDevice struct {
	cid   uint32
	vhost *os.File
	*acceptor
	listeners listeners
	close     func() error
}

func newKernelDevice(options Options) (Device, error) {
	vhost, err := openVhost()
	if err != nil {
		return nil, err
	}
	cid, err := allocateCID(randomCID, func(cid uint32) error { return setGuestCID(vhost, cid) })
	if err != nil {
		return nil, errors.Join(err, vhost.Close())
	}
	session, err := listenFor(cid, options.SessionPortBase+cid)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on the session port: %w", err), vhost.Close())
	}
	d := &kernelDevice{cid: cid, vhost: vhost, acceptor: session}
	d.close = sync.OnceValue(func() error { return errors.Join(d.listeners.close(), d.acceptor.close(), vhost.Close()) })
	return d, nil
}

// listenFor listens on a port of the host for one guest; 0 is a free port.
func listenFor(cid, port uint32) (*acceptor, error) {
	listener, err := vsock.ListenContextID(anyCID, port, nil)
	if err != nil {
		return nil, err
	}
	return newAcceptor(listener, listener.Addr().(*vsock.Addr).Port, func(conn net.Conn) bool {
		peer, ok := conn.RemoteAddr().(*vsock.Addr)
		return ok && peer.ContextID == cid
	}), nil
}

// Listen implements Device. All guests of the host dial the same kernel.
func (d *kernelDevice) Listen(uint32) (Listener, error) {
	return d.listeners.add(func() (*acceptor, error) { return listenFor(d.cid, 0) })
}

// openVhost opens a device that has no guest yet.
func openVhost() (*os.File, error) {
	vhost, err := os.OpenFile(vhostDevice, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: run `modprobe vhost_vsock`, or set the backend to auto or daemon: %w", err, errdefs.ErrUnavailable)
	}
	return vhost, nil
}

// allocateCID draws until one can be claimed. The kernel refuses a CID that is another guest's with EADDRINUSE, so that no two
// processes of the host can have the same.
func allocateCID(draw func() uint32, claim func(cid uint32) error) (uint32, error) {
	for range cidDraws {
		cid := draw()
		err := claim(cid)
		if err == nil {
			return cid, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return 0, fmt.Errorf("claim the CID %d: %w", cid, err)
		}
	}
	return 0, fmt.Errorf("%d CIDs drawn at random are all taken: stop other guests: %w", cidDraws, errdefs.ErrResourceExhausted)
}

// vhostSetGuestCID is VHOST_VSOCK_SET_GUEST_CID of linux/vhost.h, _IOW(0xaf, 0x60, __u64), on amd64, arm64 and riscv64.
const vhostSetGuestCID = 0x4008af60

// setGuestCID runs that ioctl, whose argument is a pointer to 64 bits.
func setGuestCID(vhost *os.File, cid uint32) error {
	value := uint64(cid)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, vhost.Fd(), vhostSetGuestCID, uintptr(unsafe.Pointer(&value)))
	if errno != 0 {
		return errno
	}
	return nil
}

// CID implements hypervisor.VsockDevice.
func (d *kernelDevice) CID() uint32 { return d.cid }

// Attachment implements hypervisor.VsockDevice.
func (d *kernelDevice) Attachment() hypervisor.VsockAttachment {
	return hypervisor.VsockAttachment{File: d.vhost}
}

// Processes implements hypervisor.VsockDevice.
func (d *kernelDevice) Processes() []hypervisor.Process { return nil }

// Dial implements Device.
func (d *kernelDevice) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := vsock.DialContext(ctx, d.cid, port, nil)
	if err != nil {
		return nil, dialError(port, err)
	}
	return conn, nil
}

// Close implements Device.
func (d *kernelDevice) Close() error { return d.close() }
