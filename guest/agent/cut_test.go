package agent

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/limpet-run/limpet/guest/agent/container"
	"github.com/limpet-run/limpet/guest/client"
	"github.com/limpet-run/limpet/guest/protocol"
)

// cutLink is the host's end of what the agent dials. Its first connection is cut once it has carried so many bytes, both ways counted.
type cutLink struct {
	conns   chan net.Conn
	mu      sync.Mutex
	left    int
	carried int
	cut     bool
}

func (l *cutLink) dial(ctx context.Context, _ uint32) (net.Conn, error) {
	ours, theirs := net.Pipe()
	agent, host := cutConn{ours, l, theirs}, cutConn{theirs, l, ours}
	select {
	case l.conns <- host:
		return agent, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept implements client.Transport.
func (l *cutLink) Accept(ctx context.Context) (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Dial implements client.Transport.
func (l *cutLink) Dial(context.Context, uint32) (net.Conn, error) { return nil, net.ErrClosed }

type cutConn struct {
	net.Conn
	link  *cutLink
	other net.Conn
}

func (c cutConn) Write(p []byte) (int, error) {
	n, cut := c.link.take(len(p))
	written, err := c.Conn.Write(p[:n])
	if cut {
		c.Conn.Close()
		c.other.Close()
	}
	if err == nil && n < len(p) {
		err = io.ErrClosedPipe
	}
	return written, err
}

// take tells how many bytes of n may pass, and whether the connection is cut after them.
func (l *cutLink) take(n int) (pass int, cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.cut {
		pass = min(n, l.left)
		l.left -= pass
		l.cut = l.left == 0
		cut = l.cut
	} else {
		pass = n
	}
	l.carried += pass
	return pass, cut
}

// heard is a client.Handler that keeps the exits.
type heard struct {
	mu    sync.Mutex
	exits []uint64
}

func (h *heard) Exit(m protocol.Exit) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.exits = append(h.exits, m.RequestID)
}
func (*heard) StreamEnd(protocol.StreamEnd) {}
func (*heard) Event(protocol.Event)         {}

// countingVolumes counts how often each volume is made.
type countingVolumes struct {
	mu   sync.Mutex
	made map[string]int
}

func (v *countingVolumes) Mount(m protocol.Mount) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.made[m.Target]++
	return nil
}
func (*countingVolumes) Unmount(protocol.Unmount) error { return nil }

// converseOverCutLink has a short conversation over a link that is cut once, and returns how many bytes it took.
func converseOverCutLink(t *testing.T, after int) (carried int) {
	link := &cutLink{conns: make(chan net.Conn), left: after}
	volumes := &countingVolumes{made: map[string]int{}}
	a := New(Options{
		Containers: container.Options{MountShare: func(context.Context) error { return nil }}, Machine: &fakeMachine{},
		Volumes: volumes, Logger: slog.New(slog.DiscardHandler), Dial: link.dial,
	})
	a.Identify(Identity{BootID: "boot"})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- a.Run(ctx) }()
	handler := &heard{}
	session := client.New(link, client.Options{
		Token: "secret", Handler: handler, Logger: slog.New(slog.DiscardHandler),
		Data: func(name string) ([]byte, error) { return []byte("of " + name), nil },
	})
	if _, err := session.WaitReady(t.Context()); err != nil {
		t.Fatalf("cut after %d bytes: %v", after, err)
	}
	for i := range uint64(3) {
		a.processes.Exit(protocol.Exit{RequestID: i + 1})
		if err := session.Do(t.Context(), protocol.Mount{Target: fmt.Sprint(i)}); err != nil {
			t.Errorf("cut after %d bytes: %v", after, err)
		}
	}
	if content, err := a.Data(t.Context(), "name"); string(content) != "of name" || err != nil {
		t.Errorf("cut after %d bytes: data %q, %v", after, content, err)
	}
	synctest.Wait()
	if got, want := handler.exits, []uint64{1, 2, 3}; !slices.Equal(got, want) {
		t.Errorf("cut after %d bytes: exits %v", after, got)
	}
	if len(volumes.made) != 3 || volumes.made["0"] != 1 || volumes.made["1"] != 1 || volumes.made["2"] != 1 {
		t.Errorf("cut after %d bytes: calls done %v", after, volumes.made)
	}
	carried = link.carried
	cancel()
	<-ended
	_ = session.Close()
	return carried
}

// TestCutAtAnyByte cuts the session's first connection after each number of bytes: every call is done once and answered, every exit is
// heard once and in order.
func TestCutAtAnyByte(t *testing.T) {
	whole := 0
	synctest.Test(t, func(t *testing.T) { whole = converseOverCutLink(t, 1<<30) })
	if whole < 500 {
		t.Fatalf("the conversation has only %d bytes", whole)
	}
	for after := 1; after < whole && !t.Failed(); after++ {
		synctest.Test(t, func(t *testing.T) { converseOverCutLink(t, after) })
	}
}
