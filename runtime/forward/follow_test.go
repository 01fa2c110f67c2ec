package forward

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

// freePort is a port that was free on the host a moment ago.
func freePort(t *testing.T) uint16 {
	t.Helper()
	listener, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return uint16(listener.Addr().(*net.TCPAddr).Port)
}

// tell tells the forwarder who listens; once the next list is being read, the one before has been done.
func tell(t *testing.T, guest io.Writer, listeners ...protocol.Listener) {
	t.Helper()
	for range 2 {
		if err := protocol.WriteListeners(guest, listeners); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFollow listens on the host where the guest does, as long as it does.
func TestFollow(t *testing.T) {
	w := newWorld(t, 8)
	host, guest := net.Pipe()
	if err := w.Follow(host); err != nil {
		t.Fatal(err)
	}
	public, private := freePort(t), freePort(t)
	check := func(address string, port uint16, reached bool) {
		t.Helper()
		conn, err := net.DialTCP("tcp", nil, &net.TCPAddr{IP: net.ParseIP(address), Port: int(port)})
		if err != nil {
			if reached || !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%s, port %d: %v", address, port, err)
			}
			return
		}
		defer conn.Close()
		if !reached {
			t.Errorf("%s, port %d: connected", address, port)
			return
		}
		(<-w.dialled).Close()
	}
	other := ownAddress(t)
	tell(t, guest, sorted(protocol.Listener{Port: public}, protocol.Listener{Port: private, Loopback: true})...)
	for _, address := range []string{"127.0.0.1", "::1"} {
		check(address, public, true)
		check(address, private, true)
	}
	check(other, public, true)
	check(other, private, false)
	tell(t, guest, protocol.Listener{Port: private})
	check(other, private, true)
	check("127.0.0.1", public, false)
	tell(t, guest)
	check("127.0.0.1", private, false)
	tell(t, guest, protocol.Listener{Port: public})
	check("127.0.0.1", public, true)
	w.Close()
	check("127.0.0.1", public, false)
	if _, err := guest.Write([]byte{0}); err == nil {
		t.Error("the stream is open")
	}
	host, guest = net.Pipe()
	if err := w.Follow(host); err == nil {
		t.Error("follows after the close")
	}
	if _, err := guest.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("its stream: %v", err)
	}
}

func sorted(a, b protocol.Listener) []protocol.Listener {
	if a.Port < b.Port {
		return []protocol.Listener{a, b}
	}
	return []protocol.Listener{b, a}
}

// ownAddress is an address of the host that is not loopback's.
func ownAddress(t *testing.T) string {
	t.Helper()
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range addresses {
		if ip := address.(*net.IPNet).IP; ip.IsGlobalUnicast() && ip.To4() != nil {
			return ip.String()
		}
	}
	t.Fatal("the host has no address but loopback's: give it one")
	return ""
}

// TestFollowTaken leaves a port to whom it belongs, and says so.
func TestFollowTaken(t *testing.T) {
	var log bytes.Buffer
	w := newWorld(t, 8)
	w.logger = slog.New(slog.NewTextHandler(&log, nil))
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := uint16(taken.Addr().(*net.TCPAddr).Port)
	free := freePort(t)
	host, guest := net.Pipe()
	if err := w.Follow(host); err != nil {
		t.Fatal(err)
	}
	tell(t, guest, sorted(protocol.Listener{Port: port, Loopback: true}, protocol.Listener{Port: free})...)
	conn, err := net.DialTimeout("tcp", taken.Addr().String(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if conn, err := taken.Accept(); err != nil {
		t.Error(err)
	} else {
		conn.Close()
	}
	client, err := net.DialTCP("tcp", nil, &net.TCPAddr{Port: int(free)})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	(<-w.dialled).Close()
	w.Close()
	if text := log.String(); strings.Count(text, "not to be had on the host") != 1 || !strings.Contains(text, "address already in use") {
		t.Errorf("logged: %s", text)
	}
}
