package network

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

// TestHostPlan keeps out of the way of what the host can reach.
func TestHostPlan(t *testing.T) {
	route := func(text string) netlink.Route { return netlink.Route{Dst: network(text), Family: unix.AF_INET} }
	all := []netlink.Route{
		route("10.0.0.0/8"), route("172.16.0.0/12"), route("192.168.0.0/16"), route("192.0.2.128/25"), route("198.18.0.0/15"),
	}
	for _, test := range []struct {
		name  string
		state State
		want  string
	}{
		{"no network", State{}, "10.0.2.0/24"},
		{"default route", State{Routes: []netlink.Route{route("0.0.0.0/0"), {Family: unix.AF_INET}, {Family: unix.AF_INET6}}}, "10.0.2.0/24"},
		{"address", State{Addresses: []netlink.Addr{{IPNet: network("10.0.2.15/32")}}}, "172.31.254.0/24"},
		{"wide routes", State{Routes: all[:2]}, "192.168.254.0/24"},
		{"everything", State{Routes: all}, ""},
	} {
		plan, err := NewHostPlan(test.state, map[string]string{"net.ipv4.ip_forward": "1"})
		if test.want == "" {
			if !errdefs.IsResourceExhausted(err) {
				t.Errorf("%s: %+v, %v", test.name, plan, err)
			}
			continue
		}
		if err != nil || plan.Subnet != netip.MustParsePrefix(test.want) {
			t.Errorf("%s: %v, %v; want %s", test.name, plan.Subnet, err, test.want)
		}
	}
	plan, err := NewHostPlan(State{}, map[string]string{"net.ipv4.ip_forward": "1"})
	want := protocol.Network{
		Interfaces: []protocol.Interface{{
			Name: "eth0", MAC: "02:00:00:00:00:01", MTU: 1500, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.2.15/24")},
		}},
		Routes: []protocol.Route{
			{Interface: "eth0", Destination: netip.MustParsePrefix("10.0.2.0/24")},
			{Interface: "eth0", Destination: netip.MustParsePrefix("0.0.0.0/0"), Gateway: address("10.0.2.2")},
		},
		Sysctls: []protocol.Pair{{Name: "net.ipv4.ip_forward", Value: "1"}},
	}
	if err != nil || !reflect.DeepEqual(plan.Message, want) {
		t.Errorf("the guest is told %+v, %v", plan.Message, err)
	}
}
