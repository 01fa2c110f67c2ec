package network

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ProbeGate tries whether this kernel can do what a gate does, in a network namespace that is gone afterwards. ErrNotImplemented: it lacks
// something.
func ProbeGate() error {
	own, err := Open(ownPath)
	if err != nil {
		return err
	}
	defer own.Close()
	var probe *Namespace
	var card Card
	err = own.do(func() (err error) { // which leads the thread back
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		if card, err = probeCard(); err != nil {
			return err
		}
		probe, err = Open(ownPath)
		return err
	})
	if err != nil {
		return err
	}
	defer probe.Close()
	tap, err := probe.Attach(card)
	if err != nil {
		return err
	}
	refusals, err := probe.Refusals()
	if err == nil {
		err = refusals.Close()
	}
	return errors.Join(err, tap.Close())
}

// probeCard makes an interface in the thread's network namespace, and is a card of it with a gate.
func probeCard() (Card, error) {
	attributes := netlink.LinkAttrs{Name: "eth0", HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}}
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attributes, PeerName: "peer"}); err != nil {
		return Card{}, fmt.Errorf("make an interface: %w", err)
	}
	link, err := netlink.LinkByName(attributes.Name)
	if err != nil {
		return Card{}, err
	}
	const mtu = 1500
	return Card{Interface: attributes.Name, Index: link.Attrs().Index, MAC: attributes.HardwareAddr, MTU: mtu, Gate: &Gate{}}, nil
}
