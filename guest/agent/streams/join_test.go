package streams

import (
	"errors"
	"io"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/limpet-run/limpet/guest/protocol"
)

// listen returns a listener on a unix socket, or on a free port of a loopback address.
func listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener
}

// openDuplex opens a stream as the host does. The connection is the one that it reads.
func openDuplex(t *testing.T, connect func() net.Conn, preamble protocol.Preamble) (*protocol.Duplex, net.Conn) {
	t.Helper()
	conn := connect()
	if err := open(t, conn, preamble); err != nil {
		t.Fatal(err)
	}
	token := protocol.NewToken()
	if _, err := conn.Write(token[:]); err != nil {
		t.Fatal(err)
	}
	half := connect()
	if err := open(t, half, protocol.Preamble{Kind: protocol.StreamProcess, Token: token}); err != nil {
		t.Fatal(err)
	}
	return protocol.NewDuplex(conn, half), conn
}

// TestJoin has each kind of server answer once its client has said everything.
func TestJoin(t *testing.T) {
	_, connect := serve(t)
	port := func(l net.Listener) protocol.Preamble {
		return protocol.Preamble{Kind: protocol.StreamTCP, Port: uint16(l.Addr().(*net.TCPAddr).Port)}
	}
	path := filepath.Join(t.TempDir(), "server")
	four, six := listen(t, "tcp4", "127.0.0.1:0"), listen(t, "tcp6", "[::1]:0")
	for name, test := range map[string]struct {
		listener net.Listener
		preamble protocol.Preamble
	}{
		"127.0.0.1": {four, port(four)},
		"::1":       {six, port(six)},
		"unix":      {listen(t, "unix", path), protocol.Preamble{Kind: protocol.StreamUnix, Path: path}},
	} {
		go func() {
			conn, err := test.listener.Accept()
			if err != nil {
				return // the test says what happened
			}
			defer conn.Close()
			said, err := io.ReadAll(conn)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			_, _ = conn.Write(append([]byte("heard "), said...))
		}()
		duplex, conn := openDuplex(t, connect, test.preamble)
		_, err := io.WriteString(duplex, "this")
		if err := errors.Join(err, duplex.CloseWrite()); err != nil {
			t.Fatal(name, err)
		}
		if got, err := io.ReadAll(duplex); string(got) != "heard this" || err != nil {
			t.Errorf("%s: read %q, %v", name, got, err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err == io.EOF {
			t.Errorf("%s: the guest closed first", name)
		}
	}
}

func TestJoinRefused(t *testing.T) {
	_, connect := serve(t)
	closed := listen(t, "tcp4", "127.0.0.1:0")
	closed.Close()
	for name, preamble := range map[string]protocol.Preamble{
		"port":   {Kind: protocol.StreamTCP, Port: uint16(closed.Addr().(*net.TCPAddr).Port)},
		"socket": {Kind: protocol.StreamUnix, Path: filepath.Join(t.TempDir(), "none")},
	} {
		if err := open(t, connect(), preamble); !errors.Is(err, protocol.ErrStreamRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestListeners tells of every change, and of nothing else.
func TestListeners(t *testing.T) {
	s, connect := serve(t)
	lists := [][]protocol.Listener{{}, {}, {{Port: 80}}, {{Port: 80}}, {{Port: 80, Loopback: true}}}
	asked := 0
	s.guest.(*fakeGuest).listeners = func() ([]protocol.Listener, error) {
		defer func() { asked++ }()
		if asked < len(lists) {
			return lists[asked], nil
		}
		return nil, errors.New("no more")
	}
	conn := connect()
	if err := open(t, conn, protocol.Preamble{Kind: protocol.StreamListeners}); err != nil {
		t.Fatal(err)
	}
	for _, want := range [][]protocol.Listener{{}, {{Port: 80}}, {{Port: 80, Loopback: true}}} {
		if got, err := protocol.ReadListeners(conn); !slices.Equal(got, want) || err != nil {
			t.Fatalf("told of %v, %v; want %v", got, err, want)
		}
	}
}
