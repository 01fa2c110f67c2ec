// Package network gives the guest's network interfaces what the host says: names, addresses, routes, neighbours, parameters.
//
// It may be told again: what is there already stays, so that a command whose answer was lost does no harm.
package network

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/agent/sysctl"
	"github.com/limpet-run/limpet/guest/protocol"
)

// plan is a checked message, in the terms of the kernel. Routes and neighbours name their interface by its position in interfaces.
type plan struct {
	interfaces []iface
	routes     []routePlan
	neighbors  []neighborPlan
	sysctls    []parameter
}

type iface struct {
	name      string
	mac       string
	mtu       int
	addresses []*netlink.Addr
}

type routePlan struct {
	iface int
	route netlink.Route
}

type neighborPlan struct {
	iface    int
	neighbor netlink.Neigh
}

// parameter is a file below /proc/sys and what is to be written there.
type parameter struct{ path, value string }

// newPlan checks a message: ErrInvalidArgument.
func newPlan(m protocol.Network) (*plan, error) {
	p := &plan{}
	byName := map[string]int{}
	for i, wanted := range m.Interfaces {
		checked, err := newInterface(wanted)
		if err != nil {
			return nil, invalid("interface %q: %w", wanted.Name, err)
		}
		if _, ok := byName[wanted.Name]; ok {
			return nil, invalid("interface %q: there are two of that name", wanted.Name)
		}
		byName[wanted.Name] = i
		p.interfaces = append(p.interfaces, checked)
	}
	for _, wanted := range m.Routes {
		i, ok := byName[wanted.Interface]
		route, err := newRoute(wanted)
		if !ok {
			err = fmt.Errorf("no interface %q", wanted.Interface)
		}
		if err != nil {
			return nil, invalid("route to %v: %w", wanted.Destination, err)
		}
		p.routes = append(p.routes, routePlan{i, route})
	}
	for _, wanted := range m.Neighbors {
		i, ok := byName[wanted.Interface]
		mac, err := net.ParseMAC(wanted.MAC)
		switch {
		case !ok:
			err = fmt.Errorf("no interface %q", wanted.Interface)
		case err == nil && !isAddress(wanted.Address):
			err = fmt.Errorf("no address")
		}
		if err != nil {
			return nil, invalid("neighbour %v: %w", wanted.Address, err)
		}
		p.neighbors = append(p.neighbors, neighborPlan{i, netlink.Neigh{
			IP: wanted.Address.AsSlice(), HardwareAddr: mac, State: unix.NUD_PERMANENT, Family: family(wanted.Address),
		}})
	}
	for _, wanted := range m.Sysctls {
		file, err := sysctlPath(wanted.Name)
		if err != nil {
			return nil, invalid("sysctl %q: %w", wanted.Name, err)
		}
		p.sysctls = append(p.sysctls, parameter{file, wanted.Value})
	}
	return p, nil
}

func invalid(format string, arguments ...any) error {
	return fmt.Errorf("%w: %w", fmt.Errorf(format, arguments...), errdefs.ErrInvalidArgument)
}

func newInterface(wanted protocol.Interface) (iface, error) {
	const maxMTU = 1 << 16 // bytes; virtio-net's
	mac, err := net.ParseMAC(wanted.MAC)
	switch {
	case err != nil:
		return iface{}, err
	case !isName(wanted.Name):
		return iface{}, fmt.Errorf("not a name that an interface can have")
	case wanted.MTU == 0 || wanted.MTU > maxMTU:
		return iface{}, fmt.Errorf("an MTU of %d bytes", wanted.MTU)
	}
	checked := iface{name: wanted.Name, mac: mac.String(), mtu: int(wanted.MTU)}
	for _, prefix := range wanted.Addresses {
		if !prefix.IsValid() || !isAddress(prefix.Addr()) {
			return iface{}, fmt.Errorf("address %v", prefix)
		}
		// The routes come from the host, all of them. That nobody else has the address is known there as well.
		flags := unix.IFA_F_NOPREFIXROUTE
		if prefix.Addr().Is6() {
			flags |= unix.IFA_F_NODAD
		}
		checked.addresses = append(checked.addresses, &netlink.Addr{IPNet: ipNet(prefix), Flags: flags})
	}
	return checked, nil
}

func newRoute(wanted protocol.Route) (netlink.Route, error) {
	if !wanted.Destination.IsValid() || wanted.Destination != wanted.Destination.Masked() {
		return netlink.Route{}, fmt.Errorf("not a network")
	}
	route := netlink.Route{
		Dst: ipNet(wanted.Destination), Family: family(wanted.Destination.Addr()),
		Priority: int(wanted.Metric), MTU: int(wanted.MTU), Scope: netlink.SCOPE_LINK,
	}
	if wanted.Gateway != nil {
		if !isAddress(*wanted.Gateway) {
			return netlink.Route{}, fmt.Errorf("gateway %v", *wanted.Gateway)
		}
		route.Gw, route.Scope = wanted.Gateway.AsSlice(), netlink.SCOPE_UNIVERSE
	}
	if wanted.Source != nil {
		if !isAddress(*wanted.Source) {
			return netlink.Route{}, fmt.Errorf("source %v", *wanted.Source)
		}
		route.Src = wanted.Source.AsSlice()
	}
	if wanted.OnLink {
		route.Flags = int(netlink.FLAG_ONLINK)
	}
	return route, nil
}

// isName tells whether the kernel takes the name for an interface, and whether it is one part of a path.
func isName(name string) bool {
	return name != "" && len(name) < unix.IFNAMSIZ && name != "." && name != ".." && name != "lo" &&
		!strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == '/' || r == ':' || r == 0x7f })
}

func isAddress(address netip.Addr) bool { return address.IsValid() && address.Zone() == "" }

func family(address netip.Addr) int {
	if address.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func ipNet(prefix netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}
}

// sysctlPath is the file of a parameter of the network.
func sysctlPath(name string) (string, error) {
	name = sysctl.Name(name)
	if !strings.HasPrefix(name, "net/") {
		return "", fmt.Errorf("not a parameter of the network")
	}
	return sysctl.File(name), nil
}
