package integration

import (
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/limpet-run/limpet/integration/harness"
)

// hostAddress is an address of the host of the run.
const hostAddress = "10.66.0.1"

// newHostNetwork starts a container that has the host's network. The host has hostAddress.
func newHostNetwork(s *scope) localhost {
	s.hostAddress(hostAddress)
	return localhost{s.sleeper("--net-host"), "/run/netns/" + daemon.Namespace}
}

// hostAddress gives the host of the run an address until the test's end.
func (s *scope) hostAddress(address string) {
	s.Helper()
	s.ip("-n %s address add %s/32 dev lo", daemon.Namespace, address)
	s.Cleanup(func() {
		if err := harness.Run(exec.Command("ip", "-n", daemon.Namespace, "address", "delete", address+"/32", "dev", "lo")).Err(); err != nil {
			s.Error(err)
		}
	})
}

// nameServer is the IPv4 address of the first name server in the host's resolv.conf.
func nameServer(t *testing.T) netip.Addr {
	t.Helper()
	text, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == "nameserver" {
			if address, err := netip.ParseAddr(fields[1]); err == nil && address.Is4() {
				return address
			}
		}
	}
	t.Fatal("no IPv4 name server in /etc/resolv.conf")
	return netip.Addr{}
}

// serveNames answers questions at an address of the host with UDP: there is no such name.
func (s *scope) serveNames(address string) {
	s.Helper()
	var socket net.PacketConn
	s.must(daemon.Within(func() (err error) { socket, err = net.ListenPacket("udp", address+":53"); return err }))
	s.Cleanup(func() { socket.Close() })
	go func() {
		b := make([]byte, 512)
		for {
			n, from, err := socket.ReadFrom(b)
			if err != nil {
				return
			}
			b[2], b[3] = b[2]|0x80, 3 // response, NXDOMAIN: RFC 1035, section 4.1.1
			_, _ = socket.WriteTo(b[:n], from)
		}
	}()
}

// TestHostNetworkOut has a container speak to the world as its host: TCP and UDP, from the host's address, and with its resolver.
func TestHostNetworkOut(t *testing.T) {
	l := newHostNetwork(limpetOnly(t))
	var listener net.Listener
	l.must(daemon.Within(func() (err error) { listener, err = net.Listen("tcp", hostAddress+":0"); return err }))
	defer listener.Close()
	go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RemoteAddr) }))
	result := l.exec(nil, "wget", "-q", "-O", "-", "http://"+listener.Addr().String())
	if result.Err() != nil || !strings.HasPrefix(result.Stdout, hostAddress+":") {
		t.Errorf("TCP: %v; the server saw %q", result.Err(), result.Stdout)
	}
	server := nameServer(t)
	if !server.IsLoopback() {
		l.hostAddress(server.String())
	}
	l.serveNames(server.String())
	l.serveNames(hostAddress)
	for name, address := range map[string]string{"UDP": hostAddress, "the host's resolver": "10.0.2.3"} {
		if result := l.exec(nil, "nslookup", "name.example.", address); !strings.Contains(result.Stdout+result.Stderr, "NXDOMAIN") {
			t.Errorf("%s: %v: %q, %q", name, result.Err(), result.Stdout, result.Stderr)
		}
	}
}

// TestHostNetworkIn reaches the container's ports at the host: at every address, or at localhost, as the container listens.
func TestHostNetworkIn(t *testing.T) {
	l := newHostNetwork(limpetOnly(t))
	const request = "GET /none HTTP/1.0\r\n\r\n"
	l.serve(8090, "httpd -f -p 8090")
	l.serve(8091, "httpd -f -p 127.0.0.1:8091")
	for _, address := range []string{"127.0.0.1:8090", "[::1]:8090", hostAddress + ":8090", "127.0.0.1:8091"} {
		l.until(address+" is reached", func() bool { return l.reachable(address) })
		if got := l.ask(address, request); !strings.Contains(got, "404 Not Found") {
			t.Errorf("%s: answered %q", address, got)
		}
	}
	if l.reachable(hostAddress + ":8091") {
		t.Error("what listens on localhost is reached from elsewhere")
	}
	l.must(l.exec(nil, "killall", "httpd").Err())
	l.until("a port that nobody listens on is given back", func() bool { return !l.reachable("127.0.0.1:8090") })
	logged := len(daemon.Log())
	var listener net.Listener
	l.must(daemon.Within(func() (err error) { listener, err = net.Listen("tcp", hostAddress+":8092"); return err }))
	defer listener.Close()
	l.serve(8092, "httpd -f -p 8092")
	l.until("a port that is taken is logged", func() bool {
		return strings.Contains(daemon.Log()[logged:], "a port that the guest listens on is not to be had")
	})
}

// reachable tells whether somebody listens at an address.
func (l localhost) reachable(address string) bool {
	conn, err := harness.DialIn(l.ctx, l.netns, address)
	if err == nil {
		conn.Close()
	}
	return err == nil
}
