// Package streams is the guest's listener for byte streams: it joins each connection of the host to what its preamble names.
//
// A process's stream is named by a token. The host may open the stream before or after the process asks for it; whoever comes first
// waits, at most protocol.TokenTimeout. A token is used once; that of a kept stream by one connection after the other (protocol.Sender).
//
// The other streams are joined to sockets of the guest, or to FIFOs that are made for them, both ways, as protocol.Duplex.
//
// Kinds 0 and 1 are also served without a Duplex, as plain pipes: whole where the vsock of guest and host passes a half-close and delivers
// what is on its way when the guest closes first. Limpet's own host does not ask for these.
package streams

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
)

// maxWaiting bounds the connections that have said nothing yet or whose token nobody has asked for: three for each of the processes
// that may be starting at once, with room to spare.
const maxWaiting = 1024

// Guest is what streams are joined to beside sockets of the guest's own.
type Guest interface {
	// Listeners lists who listens in the guest, in the order of the ports.
	Listeners() ([]protocol.Listener, error)
	// Roots opens the root directories of the containers that run, in the order of their starts. They are the caller's.
	Roots() []*os.File
}

// Server joins streams. Its zero value is not ready: use New.
type Server struct {
	logger  *slog.Logger
	guest   Guest
	timeout time.Duration

	mu      sync.Mutex
	waiting int
	slots   map[protocol.Token]*slot
	kept    map[protocol.Token]*keptSlot
}

// slot is where the two sides of a token meet: the one that comes first makes it.
type slot struct {
	conn  chan net.Conn // holds one; filled by the host's side
	taken chan struct{} // closed when the process has it, or has given up
	host  bool          // the host's side has come
	ours  bool          // the process has come
}

// New makes a server of a guest's streams.
func New(logger *slog.Logger, guest Guest) *Server {
	return &Server{
		logger: logger, guest: guest, timeout: protocol.TokenTimeout, slots: map[protocol.Token]*slot{}, kept: map[protocol.Token]*keptSlot{},
	}
}

// Serve accepts connections until the listener fails. The listener is the caller's; it must accept only the host's.
func (s *Server) Serve(listener net.Listener) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return fmt.Errorf("accept a byte stream: %w", err)
		}
		if !s.admit() {
			s.logger.Warn("byte stream refused: too many wait", "limit", maxWaiting)
			conn.Close()
			continue
		}
		go s.serve(conn)
	}
}

func (s *Server) admit() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting >= maxWaiting {
		return false
	}
	s.waiting++
	return true
}

func (s *Server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting--
}

// serve owns a connection until it is joined.
func (s *Server) serve(conn net.Conn) {
	if err := conn.SetDeadline(time.Now().Add(protocol.PreambleTimeout)); err != nil {
		s.leave()
		conn.Close()
		return
	}
	preamble, err := protocol.ReadPreamble(conn)
	if err != nil {
		s.leave()
		conn.Close() // without an answer: what sent it does not speak our language
		return
	}
	switch preamble.Kind {
	case protocol.StreamProcess:
		s.offer(conn, preamble.Token)
		return
	case protocol.StreamKept:
		s.offerKept(conn, preamble)
		return
	}
	s.leave()
	defer conn.Close()
	switch preamble.Kind {
	case protocol.StreamTCP:
		s.join(conn, func() (protocol.HalfCloser, error) { return dialPort(preamble.Port) })
	case protocol.StreamUnix:
		s.join(conn, func() (protocol.HalfCloser, error) { return dial("unix", preamble.Path) })
	case protocol.StreamContainerdDuplex:
		s.join(conn, s.dialContainerd)
	case protocol.StreamOutputDuplex:
		s.join(conn, s.makeOutput)
	case protocol.StreamContainerd:
		s.joinPlain(conn, s.dialContainerd)
	case protocol.StreamOutput:
		s.joinPlain(conn, s.makeOutput)
	case protocol.StreamListeners:
		s.tellListeners(conn)
	}
}

// offer hands the connection to the process that claims its token.
func (s *Server) offer(conn net.Conn, token protocol.Token) {
	defer s.leave()
	meeting := s.arrive(token, true)
	if meeting == nil {
		_ = protocol.WriteStatus(conn, fmt.Errorf("the stream's token is in use: %w", errdefs.ErrAlreadyExists))
		conn.Close()
		return
	}
	err := protocol.WriteStatus(conn, nil)
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		conn.Close()
		s.vacate(token)
		return
	}
	meeting.conn <- conn
	timeout := time.NewTimer(s.timeout)
	defer timeout.Stop()
	select {
	case <-meeting.taken:
	case <-timeout.C:
	}
	select {
	case unclaimed := <-meeting.conn:
		unclaimed.Close()
		s.vacate(token)
	default: // the process has it
	}
}

// Claim waits for the host to open the stream with that token. The connection is the caller's.
func (s *Server) Claim(ctx context.Context, token protocol.Token) (net.Conn, error) {
	meeting := s.arrive(token, false)
	if meeting == nil {
		return nil, fmt.Errorf("claim a byte stream: its token is in use: %w", errdefs.ErrAlreadyExists)
	}
	defer s.vacate(token)
	defer close(meeting.taken)
	timeout := time.NewTimer(s.timeout)
	defer timeout.Stop()
	select {
	case conn := <-meeting.conn:
		return conn, nil
	case <-timeout.C:
		return nil, fmt.Errorf("claim a byte stream: the host did not open it within %v: %w", s.timeout, errdefs.ErrUnavailable)
	case <-ctx.Done():
		return nil, fmt.Errorf("claim a byte stream: %w", ctx.Err())
	}
}

// arrive returns the token's slot for one of its two sides; nil if that side is there already.
func (s *Server) arrive(token protocol.Token, host bool) *slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	meeting := s.slots[token]
	if meeting == nil {
		meeting = &slot{conn: make(chan net.Conn, 1), taken: make(chan struct{})}
		s.slots[token] = meeting
	}
	side := &meeting.ours
	if host {
		side = &meeting.host
	}
	if *side {
		return nil
	}
	*side = true
	return meeting
}

func (s *Server) vacate(token protocol.Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.slots, token)
}

// hostOnly accepts only connections that allowed lets in.
type hostOnly struct {
	net.Listener
	allowed func(net.Addr) bool
}

// HostOnly returns a listener that closes connections from addresses that are not allowed, and accepts the others.
func HostOnly(listener net.Listener, allowed func(net.Addr) bool) net.Listener {
	return hostOnly{listener, allowed}
}

func (l hostOnly) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil || l.allowed(conn.RemoteAddr()) {
			return conn, err
		}
		conn.Close()
	}
}
