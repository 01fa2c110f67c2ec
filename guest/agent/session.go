package agent

import (
	"context"
	"sync"

	"github.com/limpet-run/limpet/guest/protocol"
)

// session is what there is with one party on the host, over as many connections as it takes.
type session struct {
	name    string // "": the sandbox's own, or one that ends with its connection
	answers *answers
	outbox  *outbox

	mu   sync.Mutex
	conn *protocol.GuestConn // the last
	left bool                // the host has said that it will not come back

	connections int // now; guarded by further.mu, as the next
	visits      int // connections that there were in all
}

func newSession(name string) *session {
	return &session{name: name, answers: newAnswers(), outbox: newOutbox()}
}

// attach makes a connection the session's, in place of the one before, which may be broken without having noticed.
func (s *session) attach(conn *protocol.GuestConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		s.conn.Close()
	}
	s.conn = conn
}

// over notes that the host will not come back.
func (s *session) over() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = true
}

// mayReturn tells whether the host may come back to the session after its connection has ended.
func (s *session) mayReturn() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.left && s.name != ""
}

// report sends what the host has not acknowledged, and what comes, until the connection ends.
func (s *session) report(ctx context.Context, conn *protocol.GuestConn) {
	defer conn.Close()
	for last := uint64(0); ; {
		item, err := s.outbox.next(ctx, last)
		if err != nil {
			return
		}
		if err := conn.WriteNotification(ctx, item.requestID, item.message); err != nil {
			return
		}
		last = item.number
		s.outbox.sent(item)
	}
}
