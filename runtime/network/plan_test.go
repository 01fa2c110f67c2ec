package network

import (
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

var mac = net.HardwareAddr{2, 0, 0, 0, 0, 1}

// link is an interface that is up.
func link(index int, name string, change func(*netlink.LinkAttrs)) netlink.Link {
	attributes := netlink.LinkAttrs{
		Index: index, Name: name, EncapType: "ether", MTU: 1500, Flags: net.FlagUp, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, byte(index)},
	}
	if change != nil {
		change(&attributes)
	}
	return &netlink.Veth{LinkAttrs: attributes}
}

func network(text string) *net.IPNet {
	prefix := netip.MustParsePrefix(text)
	return &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}
}

func address(text string) *netip.Addr {
	parsed := netip.MustParseAddr(text)
	return &parsed
}

// TestPlan plans what a bridge of CNI leaves in a pod's namespace.
func TestPlan(t *testing.T) {
	loopback := link(1, "lo", func(a *netlink.LinkAttrs) { a.Flags |= net.FlagLoopback; a.EncapType, a.HardwareAddr = "loopback", nil })
	idle := link(2, "tunl0", func(a *netlink.LinkAttrs) { a.Flags = 0; a.EncapType = "ipip" })
	state := State{
		Links: []netlink.Link{loopback, idle, link(3, "eth0", func(a *netlink.LinkAttrs) { a.MTU = 1450 })},
		Addresses: []netlink.Addr{
			{IPNet: network("127.0.0.1/8"), LinkIndex: 1}, {IPNet: network("10.4.0.2/24"), LinkIndex: 3},
			{IPNet: network("fe80::1/64"), LinkIndex: 3}, {IPNet: network("fd00::2/64"), LinkIndex: 3},
		},
		Routes: []netlink.Route{
			{Type: unix.RTN_UNICAST, Family: unix.AF_INET, LinkIndex: 3, Gw: net.IP{10, 4, 0, 1}, Flags: int(netlink.FLAG_ONLINK), Priority: 5},
			{Type: unix.RTN_UNICAST, LinkIndex: 3, Dst: network("10.4.0.0/24"), Src: net.IP{10, 4, 0, 2}, MTU: 1400},
			{Type: unix.RTN_UNICAST, LinkIndex: 3, Dst: network("::/0"), Gw: net.ParseIP("fd00::1")},
			{Type: unix.RTN_UNICAST, LinkIndex: 3, Dst: network("fe80::/64")},
			{Type: unix.RTN_MULTICAST, LinkIndex: 3, Dst: network("ff00::/8")},
			{Type: unix.RTN_BLACKHOLE, LinkIndex: 3, Dst: network("10.5.0.0/24")},
			{Type: unix.RTN_UNICAST, LinkIndex: 2, Dst: network("10.6.0.0/24")},
		},
		Neighbors: []netlink.Neigh{
			{LinkIndex: 3, IP: net.IP{10, 4, 0, 1}, HardwareAddr: mac, State: unix.NUD_PERMANENT},
			{LinkIndex: 3, IP: net.IP{10, 4, 0, 9}, HardwareAddr: mac, State: unix.NUD_REACHABLE},
			{LinkIndex: 1, IP: net.IP{10, 4, 0, 8}, HardwareAddr: mac, State: unix.NUD_PERMANENT},
			{LinkIndex: 3, IP: net.IP{224, 0, 0, 1}, State: unix.NUD_PERMANENT},
		},
	}
	plan, err := NewPlan(state, map[string]string{"net.b": "2", "net.a": "1"})
	if err != nil {
		t.Fatal(err)
	}
	want := Plan{
		Cards: []Card{{Interface: "eth0", Index: 3, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 3}, MTU: 1450}},
		Message: protocol.Network{
			Interfaces: []protocol.Interface{{
				Name: "eth0", MAC: "02:00:00:00:00:03", MTU: 1450,
				Addresses: []netip.Prefix{netip.MustParsePrefix("10.4.0.2/24"), netip.MustParsePrefix("fd00::2/64")},
			}},
			Routes: []protocol.Route{
				{Interface: "eth0", Destination: netip.MustParsePrefix("10.4.0.0/24"), Source: address("10.4.0.2"), MTU: 1400},
				{Interface: "eth0", Destination: netip.MustParsePrefix("0.0.0.0/0"), Gateway: address("10.4.0.1"), OnLink: true, Metric: 5},
				{Interface: "eth0", Destination: netip.MustParsePrefix("::/0"), Gateway: address("fd00::1")},
			},
			Neighbors: []protocol.Neighbor{{Interface: "eth0", Address: *address("10.4.0.1"), MAC: mac.String()}},
			Sysctls:   []protocol.Pair{{Name: "net.a", Value: "1"}, {Name: "net.b", Value: "2"}},
		},
	}
	if !reflect.DeepEqual(plan, want) {
		t.Errorf("got  %+v\nwant %+v", plan, want)
	}
}

func TestPlanOfNothing(t *testing.T) {
	loopback := link(1, "lo", func(a *netlink.LinkAttrs) { a.Flags |= net.FlagLoopback })
	for _, state := range []State{{}, {Links: []netlink.Link{loopback}}} {
		if plan, err := NewPlan(state, nil); err != nil || !plan.Empty() {
			t.Errorf("got %+v, %v", plan, err)
		}
	}
	if plan, err := NewPlan(State{}, map[string]string{"net.a": "1"}); err != nil || plan.Empty() {
		t.Errorf("a parameter without interfaces: %+v, %v", plan, err)
	}
}

func TestPlanRefuses(t *testing.T) {
	tunnel := link(2, "wg0", func(a *netlink.LinkAttrs) { a.EncapType, a.HardwareAddr = "none", nil })
	twin := link(4, "eth1", func(a *netlink.LinkAttrs) { a.HardwareAddr = net.HardwareAddr{2, 0, 0, 0, 0, 3} })
	for _, test := range []struct {
		name  string
		state State
		want  string
	}{
		{"no Ethernet", State{Links: []netlink.Link{tunnel}}, "wg0"},
		{"one hardware address", State{Links: []netlink.Link{link(3, "eth0", nil), twin}}, "eth0 and eth1"},
		{"several next hops", State{
			Links:  []netlink.Link{link(3, "eth0", nil)},
			Routes: []netlink.Route{{Dst: network("10.0.0.0/8"), MultiPath: []*netlink.NexthopInfo{{LinkIndex: 3}, {LinkIndex: 3}}}},
		}, "10.0.0.0/8"},
	} {
		if _, err := NewPlan(test.state, nil); !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// TestRestrict gives each card a gate with its own addresses.
func TestRestrict(t *testing.T) {
	ranges := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	plan, err := NewPlan(State{
		Links:     []netlink.Link{link(3, "eth0", nil), link(4, "eth1", nil)},
		Addresses: []netlink.Addr{{IPNet: network("10.4.0.2/24"), LinkIndex: 3}, {IPNet: network("fd00::2/64"), LinkIndex: 4}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := plan.Restrict(ranges); err != nil {
		t.Fatal(err)
	}
	for i, own := range []string{"10.4.0.2/24", "fd00::2/64"} {
		want := &Gate{Ranges: ranges, Addresses: []netip.Prefix{netip.MustParsePrefix(own)}}
		if !reflect.DeepEqual(plan.Cards[i].Gate, want) {
			t.Errorf("card %d: %+v", i, plan.Cards[i].Gate)
		}
	}
	host, err := NewHostPlan(State{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Restrict(ranges); !errdefs.IsNotImplemented(err) {
		t.Errorf("the host's network: %v", err)
	}
}
