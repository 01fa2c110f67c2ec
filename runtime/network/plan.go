package network

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

// State is what a network namespace has: of routes, those of the main table.
type State struct {
	Links     []netlink.Link
	Addresses []netlink.Addr
	Routes    []netlink.Route
	Neighbors []netlink.Neigh
}

// Plan says what joins a machine to a namespace, and what its agent is told.
type Plan struct {
	Cards   []Card
	Subnet  netip.Prefix // valid: the network is the host's, and the card is in this subnet and not in the namespace
	Message protocol.Network
}

// Card is a network card of the guest: the other end of an interface.
type Card struct {
	Interface string // its name in the namespace, and in the guest
	Index     int    // its number in the namespace
	MAC       net.HardwareAddr
	MTU       int // bytes
	// Gate is what the guest may reach by the card. Nil: everything.
	Gate *Gate `json:",omitempty"`
}

// ID names the card as a device of the machine.
func (c Card) ID() string { return fmt.Sprintf("net%d", c.Index) }

// tap is the name of its tap in the namespace.
func (c Card) tap() string { return fmt.Sprintf("limpet%d", c.Index) }

// NewPlan plans a card for every interface that is up, but for loopback, which the guest has. An interface that cannot be
// extended into a machine is refused by name (ErrNotImplemented).
//
// The sysctls, by name, are those that the container asks for.
func NewPlan(state State, sysctls map[string]string) (Plan, error) {
	var plan Plan
	names := map[int]string{}
	owners := map[string]string{}
	for _, link := range state.Links {
		attributes := link.Attrs()
		if attributes.Flags&net.FlagUp == 0 || attributes.Flags&net.FlagLoopback != 0 {
			continue
		}
		card, err := newCard(attributes)
		if err != nil {
			return Plan{}, fmt.Errorf("interface %s: %w", attributes.Name, err)
		}
		mac := card.MAC.String()
		if other := owners[mac]; other != "" {
			return Plan{}, fmt.Errorf("interfaces %s and %s: both have the hardware address %s, so a VM could not tell them apart: %w",
				other, card.Interface, mac, errdefs.ErrNotImplemented)
		}
		owners[mac] = card.Interface
		names[card.Index] = card.Interface
		plan.Cards = append(plan.Cards, card)
		plan.Message.Interfaces = append(plan.Message.Interfaces, protocol.Interface{
			Name: card.Interface, MAC: mac, MTU: uint32(card.MTU), Addresses: addressesOf(state, card.Index),
		})
	}
	if err := plan.routes(state.Routes, names); err != nil {
		return Plan{}, err
	}
	plan.neighbors(state.Neighbors, names)
	plan.Message.Sysctls = protocol.Pairs(sysctls)
	return plan, nil
}

// Restrict gives every card a gate that lets these networks be reached. The host's own network has none (ErrNotImplemented): the machine
// monitor speaks there like any program of the host.
func (p *Plan) Restrict(ranges []netip.Prefix) error {
	if p.Subnet.IsValid() {
		return fmt.Errorf("an egress policy cannot hold in the host's network: use a network of the sandbox's own: %w", errdefs.ErrNotImplemented)
	}
	for i := range p.Cards {
		p.Cards[i].Gate = &Gate{Ranges: ranges, Addresses: p.Message.Interfaces[i].Addresses}
	}
	return nil
}

// Empty tells whether there is nothing to do.
func (p Plan) Empty() bool { return len(p.Cards) == 0 && len(p.Message.Sysctls) == 0 }

// hardwareAddress is the length of Ethernet's, in bytes.
const hardwareAddress = 6

func newCard(attributes *netlink.LinkAttrs) (Card, error) {
	if attributes.EncapType != "ether" || len(attributes.HardwareAddr) != hardwareAddress {
		return Card{}, fmt.Errorf("a VM can be joined to Ethernet only, not to %q: %w", attributes.EncapType, errdefs.ErrNotImplemented)
	}
	return Card{Interface: attributes.Name, Index: attributes.Index, MAC: attributes.HardwareAddr, MTU: attributes.MTU}, nil
}

// addressesOf lists the addresses of an interface, but those that the guest's kernel makes of the hardware address.
func addressesOf(state State, index int) []netip.Prefix {
	var addresses []netip.Prefix
	for _, address := range state.Addresses {
		prefix, ok := prefixOf(address.IPNet)
		if address.LinkIndex != index || !ok || isLinkLocal6(prefix.Addr()) {
			continue
		}
		addresses = append(addresses, prefix)
	}
	return addresses
}

// routes plans those of the main table that lead over a card. The ones without a gateway come first: gateways are found by them.
func (p *Plan) routes(routes []netlink.Route, names map[int]string) error {
	var direct, distant []protocol.Route
	for _, route := range routes {
		if len(route.MultiPath) > 0 {
			return fmt.Errorf("route %v: several next hops cannot be passed into a VM: %w", route.Dst, errdefs.ErrNotImplemented)
		}
		planned, ok := newRoute(route, names[route.LinkIndex])
		switch {
		case !ok:
		case planned.Gateway == nil:
			direct = append(direct, planned)
		default:
			distant = append(distant, planned)
		}
	}
	p.Message.Routes = append(direct, distant...)
	return nil
}

func newRoute(route netlink.Route, name string) (protocol.Route, bool) {
	destination, ok := destinationOf(route)
	if name == "" || !ok || route.Type != unix.RTN_UNICAST || isLinkLocal6(destination.Addr()) {
		return protocol.Route{}, false
	}
	return protocol.Route{
		Interface: name, Destination: destination, Gateway: addressOf(route.Gw), Source: addressOf(route.Src),
		OnLink: route.Flags&int(netlink.FLAG_ONLINK) != 0, Metric: uint32(route.Priority), MTU: uint32(route.MTU),
	}, true
}

// neighbors plans the permanent entries: the guest learns the others as the namespace did.
func (p *Plan) neighbors(neighbors []netlink.Neigh, names map[int]string) {
	for _, neighbor := range neighbors {
		address := addressOf(neighbor.IP)
		name := names[neighbor.LinkIndex]
		if name == "" || address == nil || neighbor.State&unix.NUD_PERMANENT == 0 || len(neighbor.HardwareAddr) == 0 {
			continue
		}
		p.Message.Neighbors = append(p.Message.Neighbors, protocol.Neighbor{
			Interface: name, Address: *address, MAC: neighbor.HardwareAddr.String(),
		})
	}
}

// destinationOf returns a route's destination; that of a default route may be missing.
func destinationOf(route netlink.Route) (netip.Prefix, bool) {
	if route.Dst != nil {
		return prefixOf(route.Dst)
	}
	switch route.Family {
	case unix.AF_INET:
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0), true
	case unix.AF_INET6:
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0), true
	}
	return netip.Prefix{}, false
}

func prefixOf(network *net.IPNet) (netip.Prefix, bool) {
	if network == nil {
		return netip.Prefix{}, false
	}
	address := addressOf(network.IP)
	ones, bits := network.Mask.Size()
	if address == nil || bits != address.BitLen() {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(*address, ones), true
}

func addressOf(ip net.IP) *netip.Addr {
	address, ok := netip.AddrFromSlice(ip)
	if !ok {
		return nil
	}
	address = address.Unmap()
	return &address
}

// isLinkLocal6 tells whether an address or network is of those that every kernel gives each of its interfaces itself.
func isLinkLocal6(address netip.Addr) bool {
	return address.Is6() && (address.IsLinkLocalUnicast() || address.IsMulticast())
}
