package client

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"

	"github.com/limpet-run/limpet/guest/protocol"
)

const testToken = "c2VjcmV0"

var testHello = protocol.Hello{AgentVersion: "test", ProtocolVersion: protocol.Version, BootID: "boot-1", CID: 3}

// inMemory is a Transport of pipes: what the guest dials is put into accepts, what the host dials is taken from dials.
type inMemory struct {
	accepts chan net.Conn
	dials   chan net.Conn
}

func (m *inMemory) Accept(ctx context.Context) (net.Conn, error) {
	return m.take(ctx, m.accepts)
}

func (m *inMemory) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	if port != protocol.StreamPort {
		return nil, net.UnknownNetworkError("port")
	}
	return m.take(ctx, m.dials)
}

func (m *inMemory) take(ctx context.Context, conns chan net.Conn) (net.Conn, error) {
	select {
	case conn, ok := <-conns:
		if !ok {
			return nil, net.ErrClosed
		}
		return conn, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// testData is what the guest may ask for.
func testData(name string) ([]byte, error) {
	if name != "resolv.conf" {
		return nil, errors.New("not that")
	}
	return []byte("nameserver ::1"), nil
}

// recorder is a Handler that keeps what it is told.
type recorder struct{ told chan any }

func (r recorder) Exit(m protocol.Exit)           { r.told <- m }
func (r recorder) StreamEnd(m protocol.StreamEnd) { r.told <- m }
func (r recorder) Event(m protocol.Event)         { r.told <- m }

// world is a session and the guest that it is had with, in a bubble of fake time.
type world struct {
	*Session
	t         *testing.T
	transport *inMemory
	told      chan any
	hello     protocol.Hello // the agent's next one
}

func inWorld(t *testing.T, test func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{
			t:         t,
			transport: &inMemory{accepts: make(chan net.Conn, 8), dials: make(chan net.Conn, 8)},
			told:      make(chan any, 64),
			hello:     testHello,
		}
		w.Session = New(w.transport, Options{
			Token: testToken, Handler: recorder{w.told}, Data: testData, Logger: slog.New(slog.DiscardHandler),
		})
		defer func() {
			if err := w.Close(); err != nil {
				t.Error(err)
			}
		}()
		test(t, w)
	})
}

// guest is the scripted end of one connection.
type guest struct {
	*testing.T
	*protocol.GuestConn
	raw net.Conn
}

// dial makes a connection to the host, about which nothing has been said.
func (w *world) dial() *guest {
	host, raw := net.Pipe()
	w.transport.accepts <- host
	w.t.Cleanup(func() { _ = raw.Close() })
	return &guest{T: w.t, GuestConn: protocol.NewGuestConn(raw), raw: raw}
}

// connect makes a connection and shakes hands; it returns what the host said of itself.
func (w *world) connect() (*guest, protocol.Auth) {
	w.t.Helper()
	g := w.dial()
	g.notify(w.hello)
	in := g.read()
	auth, ok := in.Message.(protocol.Auth)
	if !ok {
		w.t.Fatalf("%+v came, want auth", in)
	}
	g.respond(in, protocol.AuthOK{})
	g.Authenticated()
	g.notify(protocol.Ready{})
	return g, auth
}

func (g *guest) read() protocol.Incoming[protocol.HostMessage] {
	g.Helper()
	in, err := g.Read()
	if err != nil {
		g.Fatal(err)
	}
	return in
}

// readCommand reads the next command that is not an acknowledgement, which may come at any time.
func (g *guest) readCommand() protocol.Incoming[protocol.HostMessage] {
	g.Helper()
	for {
		in := g.read()
		if _, ok := in.Message.(protocol.Ack); !ok {
			return in
		}
		g.respond(in, protocol.OK{})
	}
}

func (g *guest) notify(m protocol.GuestMessage) {
	g.Helper()
	if err := g.WriteNotification(g.Context(), 0, m); err != nil {
		g.Fatal(err)
	}
}

func (g *guest) respond(in protocol.Incoming[protocol.HostMessage], m protocol.GuestMessage) {
	g.Helper()
	if err := g.WriteResponse(g.Context(), in, m); err != nil {
		g.Fatal(err)
	}
}

// drain reads until the connection ends, so that the host can write, and says how it ended.
func (g *guest) drain() error {
	_, err := io.Copy(io.Discard, g.raw)
	return err
}

// background runs a call and gives its error.
func background(f func() error) <-chan error {
	result := make(chan error, 1)
	go func() { result <- f() }()
	return result
}
