package integration

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/integration/harness"
)

// localhost is a container whose localhost is reached from its network namespace.
type localhost struct {
	container
	netns string // path
}

// newLocalhost starts a container in a network namespace with an interface.
func newLocalhost(s *scope) localhost {
	pod := s.netns("pod")
	s.wire(pod, s.netns("world"))
	return localhost{s.sleeper("--with-ns", "network:/run/netns/"+pod), "/run/netns/" + pod}
}

// serve starts a server in the container, and returns when its port can be connected to.
func (l localhost) serve(port int, server string) {
	l.Helper()
	const script = `%s </dev/null >/dev/null 2>&1 &
		for i in $(seq 1000); do grep -q ':%04X 0*:0000 0A ' /proc/net/tcp /proc/net/tcp6 && exit; usleep 10000; done; exit 1`
	l.must(l.exec(nil, "sh", "-c", fmt.Sprintf(script, server, port)).Err())
}

// dial connects to an address from the network namespace.
func (l localhost) dial(address string) *net.TCPConn {
	l.Helper()
	conn, err := harness.DialIn(l.ctx, l.netns, address)
	l.must(err)
	l.Cleanup(func() { conn.Close() })
	l.must(conn.SetDeadline(time.Now().Add(testTimeout / 2)))
	return conn.(*net.TCPConn)
}

// wantReset connects to an address from the network namespace, which is reset, maybe before the connection is known to be made.
func (l localhost) wantReset(name, address string) {
	l.Helper()
	conn, err := harness.DialIn(l.ctx, l.netns, address)
	if err == nil {
		defer conn.Close()
		l.must(conn.SetDeadline(time.Now().Add(testTimeout / 2)))
		_, err = conn.Read(make([]byte, 1))
	}
	if !errors.Is(err, unix.ECONNRESET) {
		l.Errorf("%s: %v, want a reset", name, err)
	}
}

// until waits for what the host does a moment later, and tells of nowhere.
func (l localhost) until(what string, reached func() bool) {
	l.Helper()
	pause := time.NewTicker(10 * time.Millisecond)
	defer pause.Stop()
	for !reached() {
		select {
		case <-pause.C:
		case <-l.ctx.Done():
			l.Fatalf("%s: not so", what)
		}
	}
}

// ask sends a text and its end, and returns the answer.
func (l localhost) ask(address, text string) string {
	l.Helper()
	conn := l.dial(address)
	_, err := io.WriteString(conn, text)
	l.must(errors.Join(err, conn.CloseWrite()))
	answer, err := io.ReadAll(conn)
	l.must(err)
	return string(answer)
}

// TestForward reaches what listens on the container's localhost only, from localhost of its network namespace.
func TestForward(t *testing.T) {
	l := newLocalhost(limpetOnly(t))
	l.wantReset("nobody listens", "127.0.0.1:8080")
	l.serve(8080, "nc -ll -p 8080 -e sha256sum") // it answers once it has everything
	want := fmt.Sprintf("%x  -\n", sha256.Sum256([]byte("half")))
	for _, address := range []string{"127.0.0.1:8080", "127.1.2.3:8080", "[::1]:8080"} {
		if got := l.ask(address, "half"); got != want {
			t.Errorf("%s: answered %q, want %q", address, got, want)
		}
	}
	for port, server := range map[int]string{8084: "127.0.0.1", 8086: "[::1]"} {
		l.serve(port, fmt.Sprintf("httpd -f -p %s:%d", server, port))
		if got := l.ask(fmt.Sprintf("127.0.0.1:%d", port), "GET /none HTTP/1.0\r\n\r\n"); !strings.Contains(got, "404 Not Found") {
			t.Errorf("what listens on %s only: answered %q", server, got)
		}
	}
	l.must(l.exec(nil, "killall", "nc").Err())
	l.wantReset("nobody listens any more", "127.0.0.1:8080")
}

// TestForwardTraffic passes 100 MB through an echo, both ways at the same time.
func TestForwardTraffic(t *testing.T) {
	const size = 100e6
	l := newLocalhost(limpetOnly(t))
	l.serve(8080, "nc -ll -p 8080 -e cat")
	conn := l.dial("127.0.0.1:8080")
	sent, came := sha256.New(), sha256.New()
	written := make(chan error, 1)
	began := time.Now()
	go func() {
		source := io.LimitReader(rand.NewChaCha8([32]byte{1}), size)
		_, err := io.Copy(io.MultiWriter(conn, sent), source)
		written <- errors.Join(err, conn.CloseWrite())
	}()
	n, err := io.Copy(came, conn)
	l.must(errors.Join(err, <-written))
	t.Logf("%.0f MB/s each way", size/1e6/time.Since(began).Seconds())
	if n != size || string(came.Sum(nil)) != string(sent.Sum(nil)) {
		t.Errorf("%d bytes came back, or others", n)
	}
}

// TestForwardMany has many connections at the same time, some of which are reset. The shim keeps nothing of them.
func TestForwardMany(t *testing.T) {
	const connections, size = 60, 100_000
	l := newLocalhost(limpetOnly(t))
	l.serve(8080, "nc -ll -p 8080 -e cat")
	text := strings.Repeat("x", size)
	if got := l.ask("127.0.0.1:8080", text); got != text { // from now on everything is there that stays
		t.Fatalf("%d bytes came back", len(got))
	}
	process, err := shim()
	l.must(err)
	descriptors := func() int {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", process.PID))
		l.must(err)
		return len(entries)
	}
	before := descriptors()
	var group errgroup.Group
	for i := range connections {
		group.Go(func() error {
			conn, err := harness.DialIn(l.ctx, l.netns, "127.0.0.1:8080")
			if err != nil {
				return err
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(testTimeout / 2)); err != nil {
				return err
			}
			tcp := conn.(*net.TCPConn)
			if i%4 == 0 {
				return errors.Join(tcp.SetLinger(0), tcp.Close())
			}
			go func() {
				_, _ = io.WriteString(conn, text) // what does not arrive does not come back
				_ = tcp.CloseWrite()
			}()
			got, err := io.ReadAll(conn)
			if err == nil && string(got) != text {
				err = fmt.Errorf("connection %d: %d bytes came back", i, len(got))
			}
			return err
		})
	}
	l.must(group.Wait())
	l.until("the shim has closed what it opened", func() bool { return descriptors() <= before })
}

// TestForwardEnds has connections open when the container is deleted.
func TestForwardEnds(t *testing.T) {
	l := newLocalhost(limpetOnly(t))
	l.serve(8080, "nc -ll -p 8080 -e cat")
	conn := l.dial("127.0.0.1:8080")
	_, err := io.WriteString(conn, "x")
	l.must(err)
	_, err = io.ReadFull(conn, make([]byte, 1))
	l.must(err)
	l.kill(unix.SIGKILL)
	l.wait("")
	l.deleteTask()
	if n, err := conn.Read(make([]byte, 1)); err != io.EOF && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("afterwards: %d, %v, want the end", n, err)
	}
	again, err := harness.DialIn(l.ctx, l.netns, "127.0.0.1:8080")
	if err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("afterwards: %v, %v", again, err)
	}
}
