package streamsidecar

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/limpet-run/limpet/guest/protocol"
)

const testTimeout = 10 * time.Second

// client is a visitor's own end of a connection that is served.
type client struct {
	*testing.T
	Visitor
	cancel context.CancelFunc // of the service
	ended  chan error
}

// visit has services serve a new connection over a network, "unix" or "tcp".
func visit(t *testing.T, network string, services Services) client {
	t.Helper()
	return visitWithin(t, network, services, testTimeout)
}

// visitWithin does so with a limit for the preamble.
func visitWithin(t *testing.T, network string, services Services, limit time.Duration) client {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "socket")
	}
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.Dial(network, listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	served, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(testTimeout)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := client{t, conn.(Visitor), cancel, make(chan error, 1)}
	go func() {
		defer served.Close()
		defer context.AfterFunc(ctx, func() { served.Close() })()
		c.ended <- services.serve(ctx, served.(Visitor), limit)
	}()
	t.Cleanup(func() {
		conn.Close()
		cancel()
	})
	return c
}

// say sends a text.
func (c client) say(text string) {
	c.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.Fatal(err)
	}
}

// want reads exactly a text.
func (c client) want(text string) {
	c.Helper()
	got := make([]byte, len(text))
	if n, err := io.ReadFull(c, got); err != nil || string(got) != text {
		c.Fatalf("read %q, %v; want %q", got[:n], err, text)
	}
}

// wantEnd reads the end of what is said to it.
func (c client) wantEnd() {
	c.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		c.Errorf("read %d bytes, %v; want the end", n, err)
	}
	c.wantServed()
}

// wantServed awaits the end of the service.
func (c client) wantServed() {
	c.Helper()
	select {
	case <-c.ended:
	case <-time.After(testTimeout):
		c.Fatal("the service does not end")
	}
}

// far is the guest's end of what a visitor asked for.
type far struct {
	asked protocol.Preamble
	*protocol.Duplex
	conn net.Conn
}

// fakeGuest hands over what it is asked for. It refuses a token or port that is zero.
type fakeGuest chan far

func (g fakeGuest) open(asked protocol.Preamble) (net.Conn, *protocol.Duplex, error) {
	switch asked {
	case protocol.Preamble{Kind: protocol.StreamProcess}, protocol.Preamble{Kind: protocol.StreamTCP}:
		return nil, nil, protocol.ErrStreamRefused
	}
	host, guest := net.Pipe()
	g <- far{asked, protocol.NewDuplex(guest, guest), guest}
	return host, protocol.NewDuplex(host, host), nil
}

func (g fakeGuest) OpenStream(_ context.Context, token protocol.Token) (net.Conn, error) {
	conn, _, err := g.open(protocol.Preamble{Kind: protocol.StreamProcess, Token: token})
	return conn, err
}

func (g fakeGuest) DialPort(_ context.Context, port uint16) (protocol.HalfCloser, error) {
	_, duplex, err := g.open(protocol.Preamble{Kind: protocol.StreamTCP, Port: port})
	return duplex, err
}

func (g fakeGuest) DialUnix(_ context.Context, path string) (protocol.HalfCloser, error) {
	_, duplex, err := g.open(protocol.Preamble{Kind: protocol.StreamUnix, Path: path})
	return duplex, err
}

func (g fakeGuest) OpenListeners(context.Context) (io.ReadCloser, error) {
	conn, _, err := g.open(protocol.Preamble{Kind: protocol.StreamListeners})
	return conn, err
}

func (g fakeGuest) DialContainerd(context.Context) (protocol.HalfCloser, error) {
	_, duplex, err := g.open(protocol.Preamble{Kind: protocol.StreamContainerd})
	return duplex, err
}

func (g fakeGuest) OpenFIFO(context.Context) (io.ReadCloser, error) {
	_, duplex, err := g.open(protocol.Preamble{Kind: protocol.StreamOutput})
	return duplex, err
}

// ask opens a stream of a new guest.
func ask(t *testing.T, preamble protocol.Preamble) (client, far) {
	t.Helper()
	guest := make(fakeGuest, 1)
	c := visit(t, "unix", OfGuest(guest))
	if err := protocol.WritePreamble(c, preamble); err != nil {
		t.Fatal(err)
	}
	if preamble.Kind >= protocol.StreamProcess {
		if err := protocol.ReadStatus(c); err != nil {
			t.Fatal(err)
		}
	}
	f := <-guest
	if f.asked != preamble {
		t.Errorf("the guest was asked for %+v, want %+v", f.asked, preamble)
	}
	return c, f
}

// TestJoined has the guest answer once its visitor has said everything, and the visitor leave before the guest does.
func TestJoined(t *testing.T) {
	for _, preamble := range []protocol.Preamble{
		{Kind: protocol.StreamTCP, Port: 80}, {Kind: protocol.StreamUnix, Path: "/socket"}, {Kind: protocol.StreamContainerd},
	} {
		c, guest := ask(t, preamble)
		c.say("this")
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		said, err := io.ReadAll(guest)
		if string(said) != "this" || err != nil {
			t.Errorf("the guest heard %q, %v", said, err)
		}
		if _, err := io.WriteString(guest, "that"); err != nil {
			t.Fatal(err)
		}
		if err := guest.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		c.want("that")
		c.wantEnd()

		c, guest = ask(t, preamble)
		guest.Close()
		c.wantEnd()
	}
}

func TestRefused(t *testing.T) {
	for _, kind := range []string{"\x40" + string(make([]byte, 32)), "\x41\x00\x00"} {
		c := visit(t, "unix", OfGuest(make(fakeGuest)))
		c.say("danger noodle" + kind)
		if err := protocol.ReadStatus(c); !errors.Is(err, protocol.ErrStreamRefused) {
			t.Errorf("kind %q: %v", kind, err)
		}
		c.wantEnd()
	}
}

// TestProcessStream ends as a whole: input where its writer has ended it, output where its reader has gone, either where the guest ends it.
func TestProcessStream(t *testing.T) {
	preamble := protocol.Preamble{Kind: protocol.StreamProcess, Token: protocol.NewToken()}
	c, guest := ask(t, preamble)
	c.say("input")
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if said, err := io.ReadAll(guest.conn); string(said) != "input" || err != nil {
		t.Errorf("the guest heard %q, %v", said, err)
	}
	c.wantEnd()

	c, guest = ask(t, preamble)
	if _, err := io.WriteString(guest.conn, "output"); err != nil {
		t.Fatal(err)
	}
	c.want("output")
	guest.conn.Close()
	c.wantEnd()
}

// TestPoured tells a visitor who has nothing more to say, until he goes.
func TestPoured(t *testing.T) {
	c, guest := ask(t, protocol.Preamble{Kind: protocol.StreamListeners})
	c.say("what nobody asked for")
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"a list", "another list"} {
		if _, err := io.WriteString(guest.conn, text); err != nil {
			t.Fatal(err)
		}
		c.want(text)
	}
	c.Close()
	if err := <-c.ended; err != nil {
		t.Errorf("a visitor who goes: %v", err)
	}
	if _, err := guest.conn.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the guest's end: %v", err)
	}
}

// TestContextEnds while a visitor's bytes wait for a guest that reads none.
func TestContextEnds(t *testing.T) {
	for _, preamble := range []protocol.Preamble{
		{Kind: protocol.StreamProcess, Token: protocol.NewToken()}, {Kind: protocol.StreamTCP, Port: 80}, {Kind: protocol.StreamListeners},
	} {
		c, _ := ask(t, preamble)
		c.say("unheard")
		c.cancel()
		c.wantServed()
	}
}

// TestSilent hangs up on who does not say in time what he wants; once he has, he may be silent.
func TestSilent(t *testing.T) {
	const limit = 300 * time.Millisecond
	c := visitWithin(t, "tcp", OfGuest(make(fakeGuest)), limit)
	c.say("danger noodle")
	c.wantEnd()
	guest := make(fakeGuest, 1)
	c = visitWithin(t, "tcp", OfGuest(guest), limit)
	c.say("danger noodle\x00")
	far := <-guest
	if err := c.SetReadDeadline(time.Now().Add(2 * limit)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a stream that is silent: %d bytes, %v", n, err)
	}
	if err := c.SetReadDeadline(time.Now().Add(testTimeout)); err != nil {
		t.Fatal(err)
	}
	go io.WriteString(far, "that")
	c.want("that")
	if protocol.PreambleTimeout != 10*time.Second {
		t.Error("the limit is not the one that is promised")
	}
}

// TestWrongPreamble is hung up on without one byte, and so is one that breaks off.
func TestWrongPreamble(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		for _, text := range []string{"GET / HTTP/1.1\r\n\r\n", "Danger noodle\x41\x00\x50", "danger noodle\x06", "danger noodle\xff"} {
			c := visit(t, network, OfGuest(make(fakeGuest)))
			c.say(text)
			c.wantEnd()
		}
	}
	c := visit(t, "unix", OfGuest(make(fakeGuest)))
	c.say("danger nood")
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	c.wantEnd()
}
