package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Attach makes a card's tap in the namespace, redirects the traffic or has the card's gate do it, and returns the file that stands for
// the tap. The tap lives as long as this file and its duplicates. On error nothing is left.
func (n *Namespace) Attach(card Card) (*os.File, error) {
	var file *os.File
	err := n.do(func() (err error) {
		file, err = attach(card)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("extend interface %s into the VM: %w", card.Interface, err)
	}
	return file, nil
}

func attach(card Card) (_ *os.File, err error) {
	tap := &netlink.Tuntap{
		LinkAttrs: netlink.LinkAttrs{Name: card.tap()}, Mode: netlink.TUNTAP_MODE_TAP, NonPersist: true, Queues: 1,
		// With the header of virtio-net packets stay whole and without checksums on their way, as between two veths.
		Flags: netlink.TUNTAP_TUN_EXCL | netlink.TUNTAP_NO_PI | netlink.TUNTAP_VNET_HDR,
	}
	if err := netlink.LinkAdd(tap); err != nil {
		return nil, fmt.Errorf("make the tap %s: %w", card.tap(), err)
	}
	file := tap.Fds[0]
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close()) // the tap goes with it
		}
	}()
	link, err := netlink.LinkByName(card.tap())
	if err != nil {
		return nil, err
	}
	if err := silence(card.tap()); err != nil {
		return nil, err
	}
	if err := netlink.LinkSetMTU(link, card.MTU); err != nil {
		return nil, fmt.Errorf("set the tap's MTU to %d: %w", card.MTU, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("raise the tap: %w", err)
	}
	index := link.Attrs().Index
	if card.Gate != nil {
		if err := makeGate(card, index); err != nil {
			return nil, err
		}
		return file, nil
	}
	if err := redirect(index, card.Index); err != nil {
		return nil, err
	}
	if err := redirect(card.Index, index); err != nil {
		return nil, err
	}
	return file, nil
}

// silence keeps the namespace's kernel from speaking IPv6 on the tap, and so to the guest. A kernel without IPv6 does not.
func silence(tap string) error {
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+tap+"/disable_ipv6", []byte("1"), 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("keep the tap from IPv6: %w", err)
	}
	return nil
}

// redirect sends what arrives at one interface out at another. On error nothing is left.
func redirect(from, to int) error {
	if err := netlink.QdiscAdd(ingress(from)); err != nil {
		return fmt.Errorf("redirect traffic: add the ingress queue: %w", err)
	}
	filter := &netlink.U32{ // without a selector it takes everything
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: from, Parent: netlink.HANDLE_INGRESS, Priority: 1, Protocol: unix.ETH_P_ALL,
		},
		Actions: []netlink.Action{netlink.NewMirredAction(to)},
	}
	if err := netlink.FilterAdd(filter); err != nil {
		return errors.Join(fmt.Errorf("redirect traffic: add the filter: %w", err), netlink.QdiscDel(ingress(from)))
	}
	return nil
}

func ingress(index int) *netlink.Ingress {
	return &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS, // the only ones it can have
	}}
}

// Detach takes back the redirection of the interface or the gate, and silences the tap, which goes with the last file of it: a machine
// that still has one would be told of errors again and again. What is not there is no error.
func (n *Namespace) Detach(card Card) error {
	return n.detach(card, func(link netlink.Link) error {
		return netlink.QdiscDel(ingress(link.Attrs().Index))
	})
}

// Remove is Detach that removes the interface, too.
func (n *Namespace) Remove(card Card) error { return n.detach(card, netlink.LinkDel) }

// detach silences the tap and does something to the interface.
func (n *Namespace) detach(card Card, release func(netlink.Link) error) error {
	err := n.do(func() error {
		err := errors.Join(withLink(card.tap(), netlink.LinkSetDown), withLink(card.Interface, release))
		if card.Gate != nil {
			err = errors.Join(err, removeGate(card))
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("detach interface %s from the VM: %w", card.Interface, err)
	}
	return nil
}

// withLink does something to an interface. That the interface, or what is to be removed of it, is not there is no error.
func withLink(name string, do func(netlink.Link) error) error {
	link, err := netlink.LinkByName(name)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return nil
	}
	if err == nil {
		err = do(link)
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}
