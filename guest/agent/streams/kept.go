package streams

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
)

// absenceTimeout is how long a kept stream waits for its next connection: as long as the host waits for the agent.
const absenceTimeout = time.Minute

// Output is where a process's output goes.
type Output interface {
	io.WriteCloser
	// AwaitEnd waits, after the last write, until the host wants nothing more.
	AwaitEnd()
}

// Output waits for the host's end of an output. It is the caller's. That of a kept stream may come later, or never.
func (s *Server) Output(ctx context.Context, token protocol.Token, kept bool) (Output, error) {
	if !kept {
		conn, err := s.Claim(ctx, token)
		return Plain{conn}, err
	}
	slot, err := s.claimKept(token)
	if err != nil {
		return nil, err
	}
	return keptOutput{protocol.NewSender(slot.next, protocol.MaxWrite), slot}, nil
}

// Input waits for the host's end of an input. It is the caller's. That of a kept stream comes when there is something to read, however late
// that is, or never.
func (s *Server) Input(ctx context.Context, token protocol.Token, kept bool) (io.ReadCloser, error) {
	if !kept {
		return s.Claim(ctx, token)
	}
	slot, err := s.claimKept(token)
	if err != nil {
		return nil, err
	}
	slot.patient = true
	receiver := protocol.NewReceiver(slot.next)
	return keptInput{protocol.NewDuplex(receiver, nil), receiver, slot}, nil
}

// Plain is an Output that is a connection, and ends with it.
type Plain struct{ net.Conn }

// AwaitEnd implements Output: the host closes the connection. What it sends is not expected and dropped.
func (o Plain) AwaitEnd() { _, _ = io.Copy(io.Discard, o.Conn) }

type keptOutput struct {
	*protocol.Sender
	slot *keptSlot
}

// AwaitEnd implements Output.
func (o keptOutput) AwaitEnd() {
	o.Finish()
	<-o.Over()
}

// Close implements Output.
func (o keptOutput) Close() error {
	defer o.slot.close()
	return o.Sender.Close()
}

type keptInput struct {
	chunks   *protocol.Duplex
	receiver *protocol.Receiver
	slot     *keptSlot
}

func (i keptInput) Read(p []byte) (int, error) { return i.chunks.Read(p) }

// Close tells the host that nothing more is wanted.
func (i keptInput) Close() error {
	defer i.slot.close()
	return i.receiver.Close()
}

// keptSlot is where the connections of a kept stream wait for it.
type keptSlot struct {
	server  *Server
	token   protocol.Token
	claimed chan struct{} // closed when the process has come, or nobody will
	patient bool          // the first connection may take as long as it likes

	// Guarded by server.mu.
	ours    bool // the process has come
	closed  bool
	waiting *keptConn     // the last that has come
	current net.Conn      // the one that the stream has
	arrived chan struct{} // holds one element when one has come
}

// keptConn is a connection of a kept stream, from one byte on.
type keptConn struct {
	net.Conn
	from uint64
}

// claimKept takes a kept stream for a process.
func (s *Server) claimKept(token protocol.Token) (*keptSlot, error) {
	slot := s.keptSlot(token, true)
	s.mu.Lock()
	defer s.mu.Unlock()
	if slot.ours || slot.closed {
		return nil, fmt.Errorf("claim a byte stream: its token is in use: %w", errdefs.ErrAlreadyExists)
	}
	slot.ours = true
	close(slot.claimed)
	return slot, nil
}

// keptSlot is the slot of a token, which is made if it may be.
func (s *Server) keptSlot(token protocol.Token, fresh bool) *keptSlot {
	s.mu.Lock()
	defer s.mu.Unlock()
	slot := s.kept[token]
	if slot == nil && fresh {
		slot = &keptSlot{server: s, token: token, claimed: make(chan struct{}), arrived: make(chan struct{}, 1)}
		s.kept[token] = slot
	}
	return slot
}

// offerKept hands a connection to the kept stream that it is of.
func (s *Server) offerKept(conn net.Conn, preamble protocol.Preamble) {
	defer s.leave()
	slot := s.keptSlot(preamble.Token, preamble.Offset == 0)
	if slot == nil {
		refuse(conn, fmt.Errorf("the byte stream is over, or never was: %w", errdefs.ErrNotFound))
		return
	}
	err := protocol.WriteStatus(conn, nil)
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		conn.Close() // the slot waits for the next
	} else {
		slot.offer(keptConn{conn, preamble.Offset})
	}
	timeout := time.NewTimer(s.timeout)
	defer timeout.Stop()
	select {
	case <-slot.claimed:
	case <-timeout.C:
		slot.giveUp()
	}
}

// refuse answers a preamble with an error, and leaves the closing to the host.
func refuse(conn net.Conn, why error) {
	defer conn.Close()
	if protocol.WriteStatus(conn, why) == nil {
		awaitHangUp(conn)
	}
}

// offer makes a connection the stream's next, in place of those before, which are broken: the host has one at a time.
func (slot *keptSlot) offer(conn keptConn) {
	slot.server.mu.Lock()
	defer slot.server.mu.Unlock()
	if slot.closed {
		conn.Close()
		return
	}
	if slot.waiting != nil {
		slot.waiting.Close()
	}
	if slot.current != nil {
		slot.current.Close()
	}
	slot.waiting = &conn
	select {
	case slot.arrived <- struct{}{}:
	default:
	}
}

// next waits for the stream's next connection. It is a protocol.Reconnect.
func (slot *keptSlot) next(ctx context.Context, _ uint64) (net.Conn, uint64, error) {
	var absent <-chan time.Time // nil: it may take as long as it likes
	if !slot.patient || slot.met() {
		timeout := time.NewTimer(absenceTimeout)
		defer timeout.Stop()
		absent = timeout.C
	}
	for {
		if conn := slot.take(); conn != nil {
			return conn.Conn, conn.from, nil
		}
		select {
		case <-slot.arrived:
		case <-absent:
			return nil, 0, fmt.Errorf("the host does not come back within %v: %w", absenceTimeout, errdefs.ErrUnavailable)
		case <-ctx.Done():
			return nil, 0, context.Cause(ctx)
		}
	}
}

// met tells whether the stream has had a connection.
func (slot *keptSlot) met() bool {
	slot.server.mu.Lock()
	defer slot.server.mu.Unlock()
	return slot.current != nil
}

func (slot *keptSlot) take() *keptConn {
	slot.server.mu.Lock()
	defer slot.server.mu.Unlock()
	conn := slot.waiting
	if conn != nil {
		slot.waiting, slot.current = nil, conn.Conn
	}
	return conn
}

// giveUp closes a slot that no process has come to.
func (slot *keptSlot) giveUp() {
	slot.server.mu.Lock()
	abandoned := !slot.ours
	slot.server.mu.Unlock()
	if abandoned {
		slot.close()
	}
}

// close forgets the slot. The stream closes the connection that it has.
func (slot *keptSlot) close() {
	slot.server.mu.Lock()
	defer slot.server.mu.Unlock()
	if slot.closed {
		return
	}
	slot.closed = true
	if slot.waiting != nil {
		slot.waiting.Close()
	}
	delete(slot.server.kept, slot.token)
}
