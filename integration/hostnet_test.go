package integration

import (
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"github.com/limpet-run/limpet/integration/harness"
)

// hostAddress is an address of the host of the run.
const hostAddress = "10.66.0.1"

// newHostNetwork starts a container that has the host's network. The host has hostAddress.
func newHostNetwork(s *scope) localhost {
	s.ip("-n %s address add %s/32 dev lo", daemon.Namespace, hostAddress)
	s.Cleanup(func() {
		if err := harness.Run(exec.Command("ip", "-n", daemon.Namespace, "address", "delete", hostAddress+"/32", "dev", "lo")).Err(); err != nil {
			s.Error(err)
		}
	})
	return localhost{s.sleeper("--net-host"), "/run/netns/" + daemon.Namespace}
}

// TestHostNetworkOut has a container speak to the world as its host: TCP and UDP, from the host's address.
func TestHostNetworkOut(t *testing.T) {
	l := newHostNetwork(limpetOnly(t))
	var listener net.Listener
	var socket net.PacketConn
	l.must(daemon.Within(func() (err error) {
		if listener, err = net.Listen("tcp", hostAddress+":0"); err != nil {
			return err
		}
		socket, err = net.ListenPacket("udp", hostAddress+":53")
		return err
	}))
	defer listener.Close()
	defer socket.Close()
	go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RemoteAddr) }))
	result := l.exec(nil, "wget", "-q", "-O", "-", "http://"+listener.Addr().String())
	if result.Err() != nil || !strings.HasPrefix(result.Stdout, hostAddress+":") {
		t.Errorf("TCP: %v; the server saw %q", result.Err(), result.Stdout)
	}
	go func() { // knows no name
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
	if result := l.exec(nil, "nslookup", "name.example.", hostAddress); !strings.Contains(result.Stdout+result.Stderr, "NXDOMAIN") {
		t.Errorf("UDP: %v: %q, %q", result.Err(), result.Stdout, result.Stderr)
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
