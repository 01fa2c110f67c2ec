package network

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
)

// hostSubnets are the networks that a guest on the host's network may see: the first one that the host has no way to itself, so that
// it hides nothing. They are private, of documentation, and of tests.
var hostSubnets = []netip.Prefix{
	netip.MustParsePrefix("10.0.2.0/24"),
	netip.MustParsePrefix("172.31.254.0/24"),
	netip.MustParsePrefix("192.168.254.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("198.18.254.0/24"),
}

// What is where in such a network, by the last byte: see hypervisor.NIC. The rest is free.
const (
	hostGateway = 2
	hostGuest   = 15
)

// hostMAC is the hardware address of the guest's card: nobody else is in its network.
var hostMAC = net.HardwareAddr{0x02, 0, 0, 0, 0, 0x01}

// NewHostPlan plans the network of a guest whose containers are to have the host's: a card of the machine monitor's own, from which the
// guest speaks as the host does. The state is that of the host's namespace.
func NewHostPlan(state State, sysctls map[string]string) (Plan, error) {
	subnet, err := freeSubnet(state)
	if err != nil {
		return Plan{}, err
	}
	const mtu = 1500 // bytes, as everywhere: the monitor's own would hold more
	card := Card{Interface: "eth0", MAC: hostMAC, MTU: mtu}
	gateway := lastByte(subnet, hostGateway)
	return Plan{
		Cards:  []Card{card},
		Subnet: subnet,
		Message: protocol.Network{
			Interfaces: []protocol.Interface{{
				Name: card.Interface, MAC: card.MAC.String(), MTU: mtu,
				Addresses: []netip.Prefix{netip.PrefixFrom(lastByte(subnet, hostGuest), subnet.Bits())},
			}},
			Routes: []protocol.Route{
				{Interface: card.Interface, Destination: subnet},
				{Interface: card.Interface, Destination: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Gateway: &gateway},
			},
			Sysctls: protocol.Pairs(sysctls),
		},
	}, nil
}

// freeSubnet returns the first of hostSubnets that no route or address of the host is in.
func freeSubnet(state State) (netip.Prefix, error) {
	var taken []netip.Prefix
	for _, address := range state.Addresses {
		if prefix, ok := prefixOf(address.IPNet); ok {
			taken = append(taken, prefix)
		}
	}
	for _, route := range state.Routes {
		if prefix, ok := destinationOf(route); ok && prefix.Bits() > 0 {
			taken = append(taken, prefix)
		}
	}
	for _, subnet := range hostSubnets {
		if !slices.ContainsFunc(taken, subnet.Overlaps) {
			return subnet, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("the host has routes to all of %v, one of which a VM needs to itself to have the host's network: %w",
		hostSubnets, errdefs.ErrResourceExhausted)
}

// lastByte is the address of an IPv4 network of 24 bits that ends so.
func lastByte(subnet netip.Prefix, last byte) netip.Addr {
	address := subnet.Addr().As4()
	address[3] = last
	return netip.AddrFrom4(address)
}
