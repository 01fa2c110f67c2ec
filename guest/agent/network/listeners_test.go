package network

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/limpet-run/limpet/guest/protocol"
)

func TestListenersOf(t *testing.T) {
	for _, test := range []struct {
		sockets []string
		want    []protocol.Listener
	}{
		{nil, nil},
		{[]string{"0.0.0.0:80"}, []protocol.Listener{{Port: 80}}},
		{[]string{"[::]:80", "127.0.0.1:22"}, []protocol.Listener{{Port: 22, Loopback: true}, {Port: 80}}},
		{[]string{"[::1]:80", "127.5.0.1:80"}, []protocol.Listener{{Port: 80, Loopback: true}}},
		{[]string{"127.0.0.1:80", "[::]:80", "[::1]:80"}, []protocol.Listener{{Port: 80}}},
		{[]string{"[::ffff:0.0.0.0]:80", "[::ffff:127.0.0.1]:81"}, []protocol.Listener{{Port: 80}, {Port: 81, Loopback: true}}},
		{[]string{"10.0.2.15:80", "[fd00::1]:81", "0.0.0.0:0"}, nil},
	} {
		var sockets []netip.AddrPort
		for _, text := range test.sockets {
			sockets = append(sockets, netip.MustParseAddrPort(text))
		}
		if got := listenersOf(sockets); !slices.Equal(got, test.want) {
			t.Errorf("%v: %v, want %v", test.sockets, got, test.want)
		}
	}
	var many []netip.AddrPort
	for i := range 2 * protocol.MaxListeners {
		many = append(many, netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(i+1)))
	}
	if got := listenersOf(many); len(got) != protocol.MaxListeners || got[len(got)-1].Port != protocol.MaxListeners {
		t.Errorf("%d of many", len(got))
	}
}

// TestListeners asks the kernel, while there is a connection as well.
func TestListeners(t *testing.T) {
	enterNamespace(t)
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"127.0.0.1:7001", "[::1]:7002", "[::]:7003", "0.0.0.0:7004"} {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
	}
	conn, err := net.Dial("tcp", "127.0.0.1:7001")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	want := []protocol.Listener{{Port: 7001, Loopback: true}, {Port: 7002, Loopback: true}, {Port: 7003}, {Port: 7004}}
	if got, err := Listeners(); !slices.Equal(got, want) || err != nil {
		t.Errorf("%v, %v", got, err)
	}
}
