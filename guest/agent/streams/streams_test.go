package streams

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/limpet-run/limpet/guest/protocol"
)

// fakeGuest has the directories below roots for containers.
type fakeGuest struct {
	listeners func() ([]protocol.Listener, error)
	roots     []string
}

func (g *fakeGuest) Listeners() ([]protocol.Listener, error) { return g.listeners() }

func (g *fakeGuest) Roots() (roots []*os.File) {
	for _, path := range g.roots {
		if root, err := os.Open(path); err == nil {
			roots = append(roots, root)
		}
	}
	return roots
}

func serve(t *testing.T) (*Server, func() net.Conn) {
	path := filepath.Join(t.TempDir(), "socket")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := New(slog.New(slog.DiscardHandler), &fakeGuest{})
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(listener) }()
	t.Cleanup(func() { listener.Close(); <-done })
	return s, func() net.Conn {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		return conn
	}
}

func open(t *testing.T, conn net.Conn, p protocol.Preamble) error {
	t.Helper()
	if err := protocol.WritePreamble(conn, p); err != nil {
		t.Fatal(err)
	}
	return protocol.ReadStatus(conn)
}

func checkJoined(t *testing.T, a, b net.Conn) {
	t.Helper()
	go io.WriteString(a, "over there")
	got := make([]byte, 10)
	if _, err := io.ReadFull(b, got); err != nil || string(got) != "over there" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestHostFirst(t *testing.T) {
	s, dial := serve(t)
	token := protocol.NewToken()
	conn := dial()
	if err := open(t, conn, protocol.Preamble{Kind: protocol.StreamProcess, Token: token}); err != nil {
		t.Fatal(err)
	}
	if err := open(t, dial(), protocol.Preamble{Kind: protocol.StreamProcess, Token: token}); !errors.Is(err, protocol.ErrStreamRefused) {
		t.Errorf("same token twice: %v", err)
	}
	ours, err := s.Claim(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	checkJoined(t, conn, ours)
	checkJoined(t, ours, conn)
}

func TestProcessFirst(t *testing.T) {
	s, dial := serve(t)
	token := protocol.NewToken()
	claimed := make(chan net.Conn, 1)
	go func() {
		conn, err := s.Claim(t.Context(), token)
		if err != nil {
			t.Error(err)
		}
		claimed <- conn
	}()
	conn := dial()
	if err := open(t, conn, protocol.Preamble{Kind: protocol.StreamProcess, Token: token}); err != nil {
		t.Fatal(err)
	}
	ours := <-claimed
	defer ours.Close()
	checkJoined(t, ours, conn)
}

func TestUnclaimedDies(t *testing.T) {
	s, dial := serve(t)
	s.timeout = time.Millisecond
	conn := dial()
	if err := open(t, conn, protocol.Preamble{Kind: protocol.StreamProcess, Token: protocol.NewToken()}); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("unclaimed: %v, want the end", err)
	}
	if _, err := s.Claim(t.Context(), protocol.NewToken()); err == nil {
		t.Error("claimed what nobody opened")
	}
}

func TestWrongPreambleIsClosedWithoutAnswer(t *testing.T) {
	_, dial := serve(t)
	for _, preamble := range []string{
		"GET / HTTP/1.0\r\n\r\n", "danger noodle\xff", "danger noodle\x06", "Danger noodle\x40",
	} {
		conn := dial()
		io.WriteString(conn, preamble)
		if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("preamble %q: read %d bytes, %v", preamble, n, err)
		}
	}
}

func TestHostOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	calls := 0
	only := HostOnly(listener, func(net.Addr) bool { calls++; return calls > 1 })
	for range 2 {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	conn, err := only.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if calls != 2 {
		t.Errorf("asked %d times, want 2", calls)
	}
}
