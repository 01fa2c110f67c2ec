package forward

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

const testTimeout = 10 * time.Second

// world is a forwarder with one listener, before a guest that hands over what is dialled.
type world struct {
	*testing.T
	*Forwarder
	address string
	dialled chan *protocol.Duplex
	ports   chan uint16
}

func newWorld(t *testing.T, limit int) *world {
	w := &world{T: t, dialled: make(chan *protocol.Duplex, 1), ports: make(chan uint16, 1)}
	w.Forwarder = New(func(_ context.Context, port uint16) (protocol.HalfCloser, error) {
		if port == 0 {
			return nil, protocol.ErrStreamRefused
		}
		host, guest := net.Pipe()
		w.dialled <- protocol.NewDuplex(guest, guest)
		return protocol.NewDuplex(host, host), nil
	}, slog.New(slog.DiscardHandler))
	w.limit = limit
	t.Cleanup(w.Close)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.address = listener.Addr().String()
	if err := w.Listen(listener, func(*net.TCPConn) (uint16, error) {
		if port := <-w.ports; port != 1 {
			return port, nil
		}
		return 0, errors.New("no port")
	}); err != nil {
		t.Fatal(err)
	}
	return w
}

// connect makes a connection for a port of the guest.
func (w *world) connect(port uint16) *net.TCPConn {
	w.Helper()
	conn, err := net.Dial("tcp", w.address)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(testTimeout)); err != nil {
		w.Fatal(err)
	}
	w.ports <- port
	return conn.(*net.TCPConn)
}

func (w *world) wantReset(name string, conn net.Conn) {
	w.Helper()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		w.Errorf("%s: %v, want a reset", name, err)
	}
}

// TestForward has the server answer after the client has said everything.
func TestForward(t *testing.T) {
	w := newWorld(t, 8)
	for _, text := range []string{"first", "second"} {
		client := w.connect(80)
		_, err := io.WriteString(client, text)
		if err := errors.Join(err, client.CloseWrite()); err != nil {
			t.Fatal(err)
		}
		server := <-w.dialled
		said, err := io.ReadAll(server)
		if string(said) != text || err != nil {
			t.Errorf("heard %q, %v", said, err)
		}
		if _, err := server.Write(said); err != nil {
			t.Fatal(err)
		}
		if err := server.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if answer, err := io.ReadAll(client); string(answer) != text || err != nil {
			t.Errorf("answered %q, %v", answer, err)
		}
		if _, err := server.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("afterwards: %v", err)
		}
	}
}

// TestReset is what becomes of connections that the guest, or the host, does not take.
func TestReset(t *testing.T) {
	w := newWorld(t, 8)
	w.wantReset("nobody listens", w.connect(0))
	w.wantReset("no port", w.connect(1))
	client := w.connect(80)
	(<-w.dialled).Close()
	w.wantReset("the guest resets", client)
}

// TestLimit refuses one connection too many, and forgets those that have ended.
func TestLimit(t *testing.T) {
	w := newWorld(t, 1)
	first := w.connect(80)
	server := <-w.dialled
	second, err := net.Dial("tcp", w.address)
	if err == nil {
		defer second.Close()
		w.wantReset("one too many", second)
	} else if !errors.Is(err, unix.ECONNRESET) { // which may come before Dial returns
		t.Fatal(err)
	}
	protocol.Reset(first)
	if _, err := server.Read(make([]byte, 1)); err == nil {
		t.Error("the guest is not told")
	}
	w.Close() // returns when the first is forgotten
	if w.count != 0 || len(w.streams) != 0 {
		t.Errorf("%d connections, %d streams are kept", w.count, len(w.streams))
	}
}

// TestClose leaves nothing: connections of every age are reset, and nobody is listened to.
func TestClose(t *testing.T) {
	w := newWorld(t, 8)
	client := w.connect(80)
	server := <-w.dialled
	waiting := make(chan struct{})
	w.dial = func(ctx context.Context, _ uint16) (protocol.HalfCloser, error) {
		close(waiting)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	young := w.connect(80)
	<-waiting
	for range 2 {
		w.Close()
	}
	w.wantReset("open", client)
	w.wantReset("being dialled", young)
	if _, err := server.Read(make([]byte, 1)); err == nil {
		t.Error("the guest's stream is open")
	}
	if conn, err := net.Dial("tcp", w.address); err == nil {
		conn.Close()
		t.Error("still listening")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Listen(listener, nil); !errdefs.IsUnavailable(err) {
		t.Errorf("listen after the close: %v", err)
	}
	if _, err := listener.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("its listener: %v", err)
	}
}
