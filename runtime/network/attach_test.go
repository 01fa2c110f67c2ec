package network

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const testTimeout = 10 * time.Second

// newNamespace makes a network namespace with the two ends of a veth, eth0 and peer, both up.
func newNamespace(t *testing.T) *Namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	path := filepath.Join(t.TempDir(), "netns")
	if err := Make(path); err != nil {
		t.Fatal(err)
	}
	made, err := Open(path)
	if err = errors.Join(err, Unmake(path)); err != nil { // it lives on while it is open
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := made.Close(); err != nil {
			t.Error(err)
		}
	})
	in(t, made, func() error {
		pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0", MTU: 1400}, PeerName: "peer"}
		if err := netlink.LinkAdd(pair); err != nil {
			return err
		}
		for _, name := range []string{"eth0", "peer"} {
			link, err := netlink.LinkByName(name)
			if err == nil {
				err = errors.Join(silence(name), netlink.LinkSetUp(link))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	return made
}

func in(t *testing.T, namespace *Namespace, f func() error) {
	t.Helper()
	if err := namespace.do(f); err != nil {
		t.Fatal(err)
	}
}

// cardOf plans the namespace's eth0.
func cardOf(t *testing.T, namespace *Namespace) Card {
	t.Helper()
	state, err := namespace.Read()
	if err != nil {
		t.Fatal(err)
	}
	plan, err := NewPlan(state, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, card := range plan.Cards {
		if card.Interface == "eth0" {
			return card
		}
	}
	t.Fatalf("no eth0 in %+v", plan)
	return Card{}
}

// openPeer opens a socket for whole frames on the other end of the veth.
func openPeer(t *testing.T, namespace *Namespace) *os.File {
	t.Helper()
	var fd int
	in(t, namespace, func() (err error) {
		peer, err := net.InterfaceByName("peer")
		if err != nil {
			return err
		}
		const everything = 0x0300 // ETH_P_ALL in the order of the network
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, everything); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: everything, Ifindex: peer.Index})
	})
	file := os.NewFile(uintptr(fd), "peer")
	t.Cleanup(func() { file.Close() })
	return file
}

// vnetHeader is the length of the header of a tap's packets (struct virtio_net_hdr).
const vnetHeader = 10

// TestAttach passes frames both ways between the tap and the far end of the interface's veth.
func TestAttach(t *testing.T) {
	namespace := newNamespace(t)
	card := cardOf(t, namespace)
	tap, err := namespace.Attach(card)
	if err != nil {
		t.Fatal(err)
	}
	peer := openPeer(t, namespace)
	frame := append(bytes.Repeat([]byte{0xff}, 6), card.MAC...) // to all, from the card
	frame = append(frame, 0x88, 0xb5)                           // for local experiments
	frame = append(frame, bytes.Repeat([]byte("limpet"), 20)...)

	for name, way := range map[string]struct {
		from, to             *os.File
		fromHeader, toHeader int // bytes in front of a frame
	}{
		"guest to world": {tap, peer, vnetHeader, 0},
		"world to guest": {peer, tap, 0, vnetHeader},
	} {
		if _, err := way.from.Write(append(make([]byte, way.fromHeader), frame...)); err != nil {
			t.Fatal(name, err)
		}
		way.to.SetReadDeadline(time.Now().Add(testTimeout))
		buffer := make([]byte, 2000)
		for { // the peer's socket also sees what is sent from there
			n, err := way.to.Read(buffer)
			if err != nil {
				t.Fatal(name, err)
			}
			if bytes.Equal(buffer[min(n, way.toHeader):n], frame) {
				break
			}
		}
	}

	in(t, namespace, func() error {
		link, err := netlink.LinkByName(card.tap())
		if err == nil && link.Attrs().MTU != card.MTU {
			t.Errorf("the tap's MTU is %d", link.Attrs().MTU)
		}
		return err
	})
	if err := errors.Join(namespace.Detach(card), namespace.Detach(card), tap.Close()); err != nil {
		t.Fatal(err)
	}
	expectClean(t, namespace, "lo", "peer", "eth0")
}

// TestRemove takes the interface away with its card.
func TestRemove(t *testing.T) {
	namespace := newNamespace(t)
	card := cardOf(t, namespace)
	tap, err := namespace.Attach(card)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(namespace.Remove(card), namespace.Remove(card), tap.Close()); err != nil {
		t.Fatal(err)
	}
	expectClean(t, namespace, "lo")
}

// TestAttachFails leaves what others have put on the interface, and nothing else.
func TestAttachFails(t *testing.T) {
	namespace := newNamespace(t)
	card := cardOf(t, namespace)
	in(t, namespace, func() error { return netlink.QdiscAdd(ingress(card.Index)) })
	if tap, err := namespace.Attach(card); err == nil {
		tap.Close()
		t.Fatal("attached over another's queue")
	}
	in(t, namespace, func() error { return netlink.QdiscDel(ingress(card.Index)) }) // it is still there
	expectClean(t, namespace, "lo", "peer", "eth0")

	card.Index = 99
	if tap, err := namespace.Attach(card); err == nil {
		tap.Close()
		t.Fatal("attached to an interface that is not there")
	}
	expectClean(t, namespace, "lo", "peer", "eth0")
}

// expectClean checks that a namespace has these interfaces and that no traffic is redirected.
func expectClean(t *testing.T, namespace *Namespace, names ...string) {
	t.Helper()
	in(t, namespace, func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		found := map[string]bool{}
		for _, link := range links {
			found[link.Attrs().Name] = true
			queues, err := netlink.QdiscList(link)
			if err != nil {
				return err
			}
			for _, queue := range queues {
				if queue.Type() == "ingress" {
					t.Errorf("traffic of %s is still redirected", link.Attrs().Name)
				}
			}
		}
		for _, name := range names {
			if !found[name] {
				t.Errorf("there is no %s", name)
			}
			delete(found, name)
		}
		for name := range found {
			if name == "eth0" || name == "peer" || strings.HasPrefix(name, "limpet") {
				t.Errorf("%s is left", name)
			}
		}
		return nil
	})
}

func TestIsOwn(t *testing.T) {
	namespace := newNamespace(t)
	runtime.LockOSThread()
	own, err := Open(ownPath)
	runtime.UnlockOSThread()
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	for _, test := range []struct {
		namespace *Namespace
		want      bool
	}{{namespace, false}, {own, true}} {
		if got, err := test.namespace.IsOwn(); err != nil || got != test.want {
			t.Errorf("%s: %v, %v", test.namespace.ID(), got, err)
		}
	}
}
