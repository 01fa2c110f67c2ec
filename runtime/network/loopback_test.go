package network

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// raiseLoopback makes the namespace's loopback addresses.
func raiseLoopback(t *testing.T, namespace *Namespace) {
	t.Helper()
	in(t, namespace, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
}

// dial connects to an address in the namespace.
func dial(t *testing.T, namespace *Namespace, address string) (conn net.Conn, err error) {
	t.Helper()
	err = namespace.do(func() (err error) {
		conn, err = net.DialTimeout("tcp", address, testTimeout)
		return err
	})
	return conn, err
}

// tables lists the packet filter's tables in the namespace.
func tables(t *testing.T, namespace *Namespace) (names []string) {
	t.Helper()
	in(t, namespace, func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		found, err := conn.ListTables()
		for _, table := range found {
			names = append(names, table.Name)
		}
		return err
	})
	return names
}

// TestCatchLoopback catches what is made to any port of any loopback address, and nothing else.
func TestCatchLoopback(t *testing.T) {
	namespace := newNamespace(t)
	for range 2 { // the second time in place of what a killed shim left
		listeners, err := namespace.CatchLoopback() // the interface is raised later
		if err != nil {
			t.Fatal(err)
		}
		raiseLoopback(t, namespace)
		if len(listeners) != 2 {
			t.Fatalf("%d listeners", len(listeners))
		}
		own := listeners[0].Addr().String()
		for _, test := range []struct {
			address  string
			listener net.Listener
			port     uint16
		}{
			{"127.0.0.1:80", listeners[0], 80},
			{"127.200.3.4:65535", listeners[0], 65535},
			{"[::1]:8080", listeners[1], 8080},
			{own, listeners[0], uint16(listeners[0].Addr().(*net.TCPAddr).Port)},
		} {
			conn, err := dial(t, namespace, test.address)
			if err != nil {
				t.Fatal(err)
			}
			if err := test.listener.(*net.TCPListener).SetDeadline(time.Now().Add(testTimeout)); err != nil {
				t.Fatal(err)
			}
			caught, err := test.listener.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if port, err := OriginalPort(caught.(*net.TCPConn)); port != test.port || err != nil {
				t.Errorf("%s: caught as port %d, %v", test.address, port, err)
			}
			conn.Close()
			caught.Close()
		}
		in(t, namespace, func() error { // an address of the namespace's own that is not loopback's
			eth0, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			address, err := netlink.ParseAddr("10.9.0.2/24")
			if err != nil {
				return err
			}
			return netlink.AddrReplace(eth0, address)
		})
		if conn, err := dial(t, namespace, "10.9.0.2:80"); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("another address: %v, %v", conn, err)
		}
		for _, listener := range listeners {
			listener.Close()
		}
		if got := tables(t, namespace); len(got) != 1 || got[0] != "limpet" {
			t.Errorf("tables %q", got)
		}
	}
	for range 2 {
		if err := namespace.ReleaseLoopback(); err != nil {
			t.Fatal(err)
		}
	}
	if got := tables(t, namespace); len(got) != 0 {
		t.Errorf("left: tables %q", got)
	}
	if conn, err := dial(t, namespace, "127.0.0.1:80"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("afterwards: %v, %v", conn, err)
	}
}

// TestCatchLoopbackBesideOthers leaves rules of others alone.
func TestCatchLoopbackBesideOthers(t *testing.T) {
	namespace := newNamespace(t)
	in(t, namespace, func() error {
		return exec.Command("iptables", "-t", "nat", "-A", "OUTPUT", "-d", "10.0.0.1", "-j", "ACCEPT").Run()
	})
	listeners, err := namespace.CatchLoopback()
	if err != nil {
		t.Fatal(err)
	}
	for _, listener := range listeners {
		defer listener.Close()
	}
	if err := namespace.ReleaseLoopback(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(tables(t, namespace), " "); got != "nat" {
		t.Errorf("tables %q", got)
	}
}

// TestMissing tells a kernel that lacks something from one that refuses.
func TestMissing(t *testing.T) {
	for err, lacks := range map[error]bool{
		unix.ENOENT: true, unix.EOPNOTSUPP: true, unix.EPROTONOSUPPORT: true, unix.EPERM: false, unix.EBUSY: false,
	} {
		got := missing(fmt.Errorf("flush: %w", err))
		if !errors.Is(got, err) || errdefs.IsNotImplemented(got) != lacks || strings.Contains(got.Error(), "load the modules") != lacks {
			t.Errorf("%v: %v", err, got)
		}
	}
}
