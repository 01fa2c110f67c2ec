// Package network joins a machine to a network namespace of the host.
//
// Whoever connects a container (a CNI plugin, a hook, a person with ip) puts interfaces into its network namespace and configures
// them. The guest gets a network card for each. A tap in the namespace is the card's other end, and two filters redirect whatever
// arrives at the interface to the tap and the other way round:
//
//	guest: eth0 ── virtio-net ── QEMU ── tap ◀─redirect─▶ eth0 ── veth ── bridge ...
//	                                     └── network namespace ──┘
//
// Card and interface have one hardware address, and the guest's kernel gets the addresses, routes and neighbours that the
// namespace has. The namespace keeps its own, but nothing reaches them any more. Where not everything is to be reached, a gate stands in
// place of the filters: see Gate.
package network

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Namespace is a network namespace of the host, held open: it lives on until it is closed.
type Namespace struct {
	file *os.File
	id   string
}

// Open opens the network namespace at path, such as /proc/PID/ns/net.
func Open(path string) (*Namespace, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("identify network namespace %s: %w", path, err), file.Close())
	}
	return &Namespace{file: file, id: identify(info)}, nil
}

// identify names the namespace of a file: every path to it leads to the same inode.
func identify(info os.FileInfo) string {
	stat := info.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%d:%d", stat.Dev, stat.Ino)
}

// ID tells namespaces that exist at the same time apart.
func (n *Namespace) ID() string { return n.id }

// Close lets go of the namespace.
func (n *Namespace) Close() error { return n.file.Close() }

// IsOwn tells whether the namespace is the one that this program runs in.
func (n *Namespace) IsOwn() (bool, error) {
	runtime.LockOSThread() // no thread is in another namespace but while it is locked
	defer runtime.UnlockOSThread()
	own, err := os.Stat(ownPath)
	return err == nil && identify(own) == n.id, err
}

// Read reads what the namespace has.
func (n *Namespace) Read() (State, error) {
	var state State
	err := n.do(func() (err error) {
		if state.Links, err = netlink.LinkList(); err != nil {
			return err
		}
		if state.Addresses, err = netlink.AddrList(nil, netlink.FAMILY_ALL); err != nil {
			return err
		}
		if state.Routes, err = netlink.RouteList(nil, netlink.FAMILY_ALL); err != nil {
			return err
		}
		state.Neighbors, err = netlink.NeighList(0, netlink.FAMILY_ALL)
		return err
	})
	if err != nil {
		return State{}, fmt.Errorf("read network namespace: %w", err)
	}
	return state, nil
}

// ownPath is the calling thread's network namespace.
const ownPath = "/proc/thread-self/ns/net"

// do calls f in the namespace: on a thread that is moved there and back.
func (n *Namespace) do(f func() error) error {
	runtime.LockOSThread()
	own, err := os.Open(ownPath)
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer own.Close()
	if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace: %w", err)
	}
	err = f()
	if back := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, fmt.Errorf("leave network namespace: %w", back)) // the thread ends with its goroutine
	}
	runtime.UnlockOSThread()
	return err
}
