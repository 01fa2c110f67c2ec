package runtime

import (
	"context"
	"errors"
	"net"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/runtime/forward"
	"github.com/limpet-run/limpet/runtime/network"
)

// forwardPorts has connections to the guest's ports reach it from where clients look for them: from the namespace's loopback, which is
// where containerd looks for a port of a pod; with the host's network, from the host's addresses. A host that cannot do it does without.
func (s *Sandbox) forwardPorts(ctx context.Context, link *connection) {
	forward := link.forwardLoopback
	if link.isHost() {
		forward = func() error { return s.forwardHost(ctx, link) }
	}
	if err := forward(); err != nil {
		s.log.Warn("connections to the sandbox's ports on localhost will not reach the guest", "error", err)
	}
	go func() { // not every backend of vsock ends its connections with the machine
		<-s.lost
		link.forwarder.Close()
	}()
}

// forwardHost begins to listen on the host where the guest does.
func (s *Sandbox) forwardHost(ctx context.Context, link *connection) error {
	listeners, err := s.guest.OpenListeners(ctx)
	if err != nil {
		return err
	}
	return link.forwarder.Follow(listeners)
}

// forwardLoopback begins to forward connections to the namespace's loopback.
func (l *connection) forwardLoopback() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errdefs.ErrUnavailable
	}
	listeners, err := l.namespace.CatchLoopback()
	for _, listener := range listeners {
		err = errors.Join(err, l.forwarder.Listen(listener, network.OriginalPort))
	}
	return err
}

// Publish passes the TCP connections of a listener of the host's on to a port of the guest's loopback, as long as the sandbox runs. The
// listener is the sandbox's from the call on.
func (s *Sandbox) Publish(listener net.Listener, port uint16) error {
	forwarder := forward.New(s.dialPort, s.log)
	if err := forwarder.Listen(listener, func(*net.TCPConn) (uint16, error) { return port, nil }); err != nil {
		return err
	}
	s.undo.push("close the listener "+listener.Addr().String(), func(context.Context) error {
		forwarder.Close()
		return nil
	})
	go func() { // not every backend of vsock ends its connections with the machine
		<-s.lost
		forwarder.Close()
	}()
	return nil
}

// dialPort connects to a port of the guest's loopback.
func (s *Sandbox) dialPort(ctx context.Context, port uint16) (protocol.HalfCloser, error) {
	return s.guest.DialPort(ctx, port)
}
