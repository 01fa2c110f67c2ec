package network

import (
	"context"
	"errors"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

// enterNamespace moves the test to a network namespace of its own, with those interfaces. The thread ends with the test.
func enterNamespace(t *testing.T, links ...netlink.Link) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if err := netlink.LinkAdd(link); err != nil {
			t.Fatal(err)
		}
	}
}

func bridge(name, mac string) netlink.Link {
	address, err := net.ParseMAC(mac)
	if err != nil {
		panic(err)
	}
	return &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: address}}
}

// once is an Await for devices that are all there.
func once(_ context.Context, try func() (bool, error)) error {
	done, err := try()
	if err == nil && !done {
		err = errors.New("not there")
	}
	return err
}

// TestConfigure configures two interfaces that have each other's names, twice.
func TestConfigure(t *testing.T) {
	enterNamespace(t, bridge("eth1", "02:00:00:00:00:01"), bridge("eth0", "02:00:00:00:00:02"))
	for range 2 {
		if err := Configure(t.Context(), valid(), once); err != nil {
			t.Fatal(err)
		}
	}
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if a := link.Attrs(); a.HardwareAddr.String() != "02:00:00:00:00:01" || a.MTU != 1400 || a.Flags&net.FlagUp == 0 {
		t.Errorf("eth0 is %+v", a)
	}
	addresses, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, address := range addresses {
		found[address.IPNet.String()] = true
		if address.Flags&unix.IFA_F_TENTATIVE != 0 {
			t.Errorf("%v is not usable yet", address.IPNet)
		}
	}
	for _, want := range []string{"10.4.0.2/24", "fd00::2/64"} {
		if !found[want] {
			t.Errorf("no %s, only %v", want, found)
		}
	}
	var routes []string
	list, err := netlink.RouteList(link, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, route := range list {
		if route.Dst != nil {
			routes = append(routes, route.Dst.String())
		}
	}
	for _, want := range []string{"10.4.0.0/24", "fd00::/64", "0.0.0.0/0"} {
		if strings.Count(" "+strings.Join(routes, " ")+" ", " "+want+" ") != 1 {
			t.Errorf("not one route to %s in %v", want, routes)
		}
	}
	neighbors, err := netlink.NeighList(link.Attrs().Index, netlink.FAMILY_V4)
	if err != nil || len(neighbors) != 1 || neighbors[0].State != unix.NUD_PERMANENT {
		t.Errorf("neighbours %v, %v", neighbors, err)
	}
	if value, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward"); err != nil || string(value) != "1\n" {
		t.Errorf("ip_forward %q, %v", value, err)
	}
}

// TestConfigureFails names what is missing.
func TestConfigureFails(t *testing.T) {
	enterNamespace(t, bridge("eth0", "02:00:00:00:00:02"))
	if err := Configure(t.Context(), valid(), once); err == nil || !strings.Contains(err.Error(), "interface eth0 has not come") {
		t.Errorf("a card that does not come: %v", err)
	}
	unknown := protocol.Network{Sysctls: []protocol.Pair{{Name: "net.limpet", Value: "1"}}}
	if err := Configure(t.Context(), unknown, once); err == nil || !strings.Contains(err.Error(), "net/limpet") {
		t.Errorf("an unknown parameter: %v", err)
	}
}
