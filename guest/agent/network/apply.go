package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/vishvananda/netlink"

	"github.com/limpet-run/limpet/guest/protocol"
)

// Await waits for a device: it calls try now and after every event of the kernel's device model, until try says that it is done
// or fails.
type Await func(ctx context.Context, try func() (done bool, err error)) error

// Configure does what the message says, and waits for cards that are not there yet. A message that makes no sense changes
// nothing: ErrInvalidArgument.
func Configure(ctx context.Context, m protocol.Network, await Await) error {
	p, err := newPlan(m)
	if err != nil {
		return fmt.Errorf("configure network: %w", err)
	}
	if err := p.apply(ctx, await); err != nil {
		return fmt.Errorf("configure network: %w", err)
	}
	return nil
}

func (p *plan) apply(ctx context.Context, await Await) error {
	links, err := p.find(ctx, await)
	if err != nil {
		return err
	}
	if err := p.rename(links); err != nil {
		return err
	}
	for i, link := range links {
		if err := p.interfaces[i].configure(link); err != nil {
			return fmt.Errorf("interface %s: %w", p.interfaces[i].name, err)
		}
	}
	for _, planned := range p.neighbors {
		neighbor := planned.neighbor
		neighbor.LinkIndex = links[planned.iface].Attrs().Index
		if err := netlink.NeighSet(&neighbor); err != nil {
			return fmt.Errorf("neighbour %v: %w", neighbor.IP, err)
		}
	}
	for _, planned := range p.routes {
		route := planned.route
		route.LinkIndex = links[planned.iface].Attrs().Index
		if err := netlink.RouteReplace(&route); err != nil {
			return fmt.Errorf("route to %v: %w", route.Dst, err)
		}
	}
	for _, parameter := range p.sysctls {
		if err := os.WriteFile(parameter.path, []byte(parameter.value), 0); err != nil {
			return fmt.Errorf("sysctl: %w", err)
		}
	}
	return nil
}

// find waits until there is a card with each hardware address, and returns them in the order of the interfaces.
func (p *plan) find(ctx context.Context, await Await) ([]netlink.Link, error) {
	links := make([]netlink.Link, len(p.interfaces))
	missing := ""
	err := await(ctx, func() (bool, error) {
		present, err := netlink.LinkList()
		if err != nil {
			return false, err
		}
		byMAC := map[string]netlink.Link{}
		for _, link := range present {
			byMAC[link.Attrs().HardwareAddr.String()] = link
		}
		missing = ""
		for i, wanted := range p.interfaces {
			if links[i] = byMAC[wanted.mac]; links[i] == nil {
				missing = wanted.name
			}
		}
		return missing == "", nil
	})
	if err != nil && missing != "" {
		err = fmt.Errorf("the card of interface %s has not come: %w", missing, err)
	}
	return links, err
}

// rename gives the cards their names, of which another may have one: so each that has a wrong name first gets one that nobody
// wants. An interface is renamed while it is down.
func (p *plan) rename(links []netlink.Link) error {
	wrong := map[int]netlink.Link{}
	for i, link := range links {
		if link.Attrs().Name != p.interfaces[i].name {
			wrong[i] = link
		}
	}
	for i, link := range wrong {
		if err := errors.Join(netlink.LinkSetDown(link), netlink.LinkSetName(link, fmt.Sprintf("limpet%d", i))); err != nil {
			return fmt.Errorf("interface %s: rename it: %w", link.Attrs().Name, err)
		}
	}
	for i, link := range wrong {
		if err := netlink.LinkSetName(link, p.interfaces[i].name); err != nil {
			return fmt.Errorf("interface %s: give it that name: %w", p.interfaces[i].name, err)
		}
	}
	return nil
}

// configure raises an interface with its addresses.
func (i iface) configure(link netlink.Link) error {
	if err := i.trust(); err != nil {
		return err
	}
	if err := netlink.LinkSetMTU(link, i.mtu); err != nil {
		return fmt.Errorf("set its MTU to %d: %w", i.mtu, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("raise it: %w", err)
	}
	for _, address := range i.addresses {
		if err := netlink.AddrReplace(link, address); err != nil {
			return fmt.Errorf("address %v: %w", address.IPNet, err)
		}
	}
	return nil
}

// trust keeps the kernel from looking for another owner of the addresses that it gives the interface itself, which takes a second:
// the host's interface, with the same hardware address, has them already.
func (i iface) trust() error {
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+i.name+"/accept_dad", []byte("0"), 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
