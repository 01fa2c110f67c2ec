// Package forward passes TCP connections that are made on the host on to ports of the guest's loopback.
//
// Each connection is dialled in the guest when it comes, so that it does not matter when the guest began to listen. One that the
// guest does not take is reset. The two directions end one by one, as those of TCP do.
package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
)

const (
	// maxConnections bounds the connections of one sandbox: each costs three descriptors of this process, and four of a vsock daemon
	// that may have no more than 1024.
	maxConnections = 200
	// acceptPause is awaited where the host has no descriptor for a connection.
	acceptPause = 100 * time.Millisecond
)

// Dial connects to a TCP port of the guest's loopback. The stream is the caller's.
type Dial func(ctx context.Context, port uint16) (protocol.HalfCloser, error)

// Forwarder passes connections on. Its methods are safe for concurrent use. Its owner must Close it.
type Forwarder struct {
	dial   Dial
	logger *slog.Logger
	limit  int

	ctx   context.Context // ends with Close
	end   context.CancelFunc
	tasks sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	listeners map[net.Listener]bool
	streams   map[protocol.HalfCloser]bool // of both sides
	count     int                          // connections
}

// New makes a forwarder that listens to nobody yet.
func New(dial Dial, logger *slog.Logger) *Forwarder {
	f := &Forwarder{
		dial: dial, logger: logger, limit: maxConnections,
		listeners: map[net.Listener]bool{}, streams: map[protocol.HalfCloser]bool{},
	}
	f.ctx, f.end = context.WithCancel(context.Background())
	return f
}

// Listen begins to pass on the TCP connections of a listener, each to the port of the guest that portOf names. The listener is the
// forwarder's until it is closed by either. ErrUnavailable: the forwarder is closed, and so is the listener.
func (f *Forwarder) Listen(listener net.Listener, portOf func(*net.TCPConn) (uint16, error)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return errors.Join(fmt.Errorf("the forwarder is closed: %w", errdefs.ErrUnavailable), listener.Close())
	}
	f.listeners[listener] = true
	f.tasks.Go(func() { f.accept(listener, portOf) })
	return nil
}

// Close ends the listeners and resets the connections that there are. It returns when nothing is left of them, and may be called
// again.
func (f *Forwarder) Close() {
	f.end()
	f.mu.Lock()
	f.closed = true
	for listener := range f.listeners {
		_ = listener.Close() // fails only if it is closed
	}
	for stream := range f.streams {
		protocol.Reset(stream)
	}
	f.mu.Unlock()
	f.tasks.Wait()
}

func (f *Forwarder) accept(listener net.Listener, portOf func(*net.TCPConn) (uint16, error)) {
	defer func() {
		_ = listener.Close()
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.listeners, listener)
	}()
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			f.logger.Warn("cannot accept a connection to the guest", "error", err)
			select {
			case <-time.After(acceptPause):
			case <-f.ctx.Done():
				return
			}
			continue
		}
		client := conn.(*net.TCPConn)
		if err := f.admit(client); err != nil {
			f.logger.Warn("connection to the guest refused", "error", err)
			protocol.Reset(client)
			continue
		}
		f.tasks.Go(func() {
			defer f.leave(client)
			f.pass(client, portOf)
		})
	}
}

// pass owns a connection from its beginning to its end.
func (f *Forwarder) pass(client *net.TCPConn, portOf func(*net.TCPConn) (uint16, error)) {
	port, err := portOf(client)
	if err != nil {
		f.logger.Warn("connection to the guest refused", "error", err)
		protocol.Reset(client)
		return
	}
	server, err := f.dial(f.ctx, port)
	if err != nil { // most often nobody listens there
		f.logger.Debug("connection to the guest reset", "port", port, "error", err)
		protocol.Reset(client)
		return
	}
	defer server.Close()
	if !f.track(server) {
		protocol.Reset(client)
		return
	}
	defer f.untrack(server)
	if err := protocol.Join(client, server); err != nil {
		f.logger.Debug("connection to the guest reset", "port", port, "error", err)
		return
	}
	_ = client.Close() // both directions have ended
}

// admit counts a connection.
func (f *Forwarder) admit(client *net.TCPConn) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return errdefs.ErrUnavailable
	case f.count >= f.limit:
		return fmt.Errorf("there are %d already, the most at one time: %w", f.limit, errdefs.ErrResourceExhausted)
	}
	f.count++
	f.streams[client] = true
	return nil
}

func (f *Forwarder) leave(client *net.TCPConn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count--
	delete(f.streams, client)
}

// track lets Close end a stream of the guest. It tells whether the forwarder is open.
func (f *Forwarder) track(server protocol.HalfCloser) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.streams[server] = true
	return true
}

func (f *Forwarder) untrack(server protocol.HalfCloser) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.streams, server)
}
