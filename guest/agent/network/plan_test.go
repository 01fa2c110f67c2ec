package network

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
)

// valid is a message with one of everything.
func valid() protocol.Network {
	gateway := netip.MustParseAddr("10.4.0.1")
	return protocol.Network{
		Interfaces: []protocol.Interface{
			{Name: "eth0", MAC: "02:00:00:00:00:01", MTU: 1400, Addresses: []netip.Prefix{
				netip.MustParsePrefix("10.4.0.2/24"), netip.MustParsePrefix("fd00::2/64")}},
			{Name: "eth1", MAC: "02:00:00:00:00:02", MTU: 1500},
		},
		Routes: []protocol.Route{
			{Interface: "eth0", Destination: netip.MustParsePrefix("10.4.0.0/24")},
			{Interface: "eth0", Destination: netip.MustParsePrefix("fd00::/64"), Metric: 256},
			{Interface: "eth0", Destination: netip.MustParsePrefix("0.0.0.0/0"), Gateway: &gateway},
		},
		Neighbors: []protocol.Neighbor{{Interface: "eth0", Address: gateway, MAC: "02:00:00:00:00:09"}},
		Sysctls:   []protocol.Pair{{Name: "net.ipv4.ip_forward", Value: "1"}},
	}
}

func TestPlanRefuses(t *testing.T) {
	if _, err := newPlan(valid()); err != nil {
		t.Fatal(err)
	}
	zoned := netip.MustParseAddr("fe80::1%eth0")
	for _, test := range []struct {
		name  string
		spoil func(*protocol.Network)
		want  string
	}{
		{"path as name", func(m *protocol.Network) { m.Interfaces[0].Name = "../x" }, "name"},
		{"loopback", func(m *protocol.Network) { m.Interfaces[0].Name = "lo" }, "name"},
		{"long name", func(m *protocol.Network) { m.Interfaces[0].Name = strings.Repeat("x", 16) }, "name"},
		{"one name for two", func(m *protocol.Network) { m.Interfaces[1].Name = "eth0" }, "two"},
		{"hardware address", func(m *protocol.Network) { m.Interfaces[0].MAC = "2:0" }, "eth0"},
		{"MTU", func(m *protocol.Network) { m.Interfaces[0].MTU = 0 }, "MTU"},
		{"no address", func(m *protocol.Network) { m.Interfaces[0].Addresses[0] = netip.Prefix{} }, "address"},
		{"route of nobody", func(m *protocol.Network) { m.Routes[0].Interface = "eth7" }, "eth7"},
		{"no network", func(m *protocol.Network) { m.Routes[0].Destination = netip.MustParsePrefix("10.4.0.1/24") }, "10.4.0.1/24"},
		{"gateway", func(m *protocol.Network) { m.Routes[0].Gateway = &zoned }, "gateway"},
		{"source", func(m *protocol.Network) { m.Routes[0].Source = &netip.Addr{} }, "source"},
		{"neighbour of nobody", func(m *protocol.Network) { m.Neighbors[0].Interface = "eth7" }, "eth7"},
		{"neighbour's address", func(m *protocol.Network) { m.Neighbors[0].Address = netip.Addr{} }, "neighbour"},
		{"neighbour's hardware", func(m *protocol.Network) { m.Neighbors[0].MAC = "" }, "neighbour"},
		{"other sysctl", func(m *protocol.Network) { m.Sysctls[0].Name = "kernel.hostname" }, "kernel.hostname"},
	} {
		m := valid()
		test.spoil(&m)
		if _, err := newPlan(m); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

func TestSysctlPath(t *testing.T) {
	for name, want := range map[string]string{
		"net.ipv4.ip_forward":                "/proc/sys/net/ipv4/ip_forward",
		"net/ipv4/ip_forward":                "/proc/sys/net/ipv4/ip_forward",
		"net.ipv4.conf.eth0/1.forwarding":    "/proc/sys/net/ipv4/conf/eth0.1/forwarding",
		"net/ipv4/conf/eth0.1/forwarding":    "/proc/sys/net/ipv4/conf/eth0.1/forwarding",
		"kernel.hostname":                    "",
		"net":                                "",
		"net/../kernel/hostname":             "",
		"net.ipv4...kernel":                  "",
		"net.//.kernel.hostname":             "",
		"/net/ipv4/ip_forward":               "",
		"net.ipv4.conf.//.//.//.kernel.x":    "",
		"net/ipv4/conf/default/forwarding/.": "",
	} {
		if got, err := sysctlPath(name); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}
