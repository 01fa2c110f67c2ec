package client

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
)

// call is a command that was not answered yet.
type call struct {
	id      uint64
	trace   string // see protocol.TraceID
	command protocol.HostMessage
	result  chan result // holds one element: the answer
}

type result struct {
	message protocol.GuestMessage
	err     error
}

// Call sends a command and waits for its answer, over as many connections as it takes, until ctx ends. A call whose ctx ended
// is cancelled, and may still have been done. If the agent answers with an error it is of the kind (errdefs) that its code stands for;
// errdefs.ErrUnavailable says that the session is over.
func (s *Session) Call(ctx context.Context, command protocol.HostMessage) (protocol.GuestMessage, error) {
	name := protocol.HostMessages.Name(command)
	c, conn, err := s.begin(protocol.TraceID(ctx), command)
	if err != nil {
		return nil, fmt.Errorf("guest %s: %w", name, err)
	}
	defer s.forget(c)
	if conn != nil {
		go s.send(ctx, conn, c) // writing may take longer than ctx allows
	}
	select {
	case r := <-c.result:
		if r.err != nil {
			return nil, fmt.Errorf("guest %s: %w", name, r.err)
		}
		return r.message, nil
	case <-ctx.Done():
		go s.cancel(c)
		return nil, fmt.Errorf("guest %s: no answer: %w", name, ctx.Err())
	case <-s.ctx.Done():
		return nil, fmt.Errorf("guest %s: %w", name, s.over())
	}
}

// cancelTimeout is how long a cancellation may take, which helps the guest only.
const cancelTimeout = 5 * time.Second

// cancel tells the agent that nobody waits for a call any more.
func (s *Session) cancel(c *call) {
	ctx, stop := context.WithTimeout(protocol.WithTraceID(s.ctx, c.trace), cancelTimeout)
	defer stop()
	command := protocol.Cancel{CallID: c.id}
	if conn := s.current(); conn != nil {
		if err := conn.WriteCommand(ctx, s.nextCallID(), command); err != nil {
			s.logger.DebugContext(ctx, "guest was not told that a call is given up", "call", c.id, "error", err)
		}
	}
}

// Do makes a call that is answered with OK.
func (s *Session) Do(ctx context.Context, command protocol.HostMessage) error {
	message, err := s.Call(ctx, command)
	if err != nil {
		return err
	}
	if _, ok := message.(protocol.OK); !ok {
		return fmt.Errorf("guest %s: answered with %T, not with OK: %w", protocol.HostMessages.Name(command), message, errdefs.ErrInternal)
	}
	return nil
}

// firstCallID is where a session begins to count. It is random: the agent remembers the answers that it gave, and another host
// process may have had a session with it before.
func firstCallID() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:])                    // never fails: see crypto/rand
	return binary.BigEndian.Uint64(b[:]) >> 1 // far from the end, where counting would come to 0
}

func (s *Session) nextCallID() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastCall++
	return s.lastCall
}

// begin registers a call. The connection is the one to send it on; nil: the next connection will send it.
func (s *Session) begin(trace string, command protocol.HostMessage) (*call, *protocol.HostConn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.calls) >= protocol.MaxCalls {
		return nil, nil, fmt.Errorf("%d calls wait for the guest already: %w", protocol.MaxCalls, errdefs.ErrResourceExhausted)
	}
	s.lastCall++
	c := &call{id: s.lastCall, trace: trace, command: command, result: make(chan result, 1)}
	s.calls[c.id] = c
	return c, s.conn, nil
}

func (s *Session) forget(c *call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.calls, c.id)
}

// answer ends a call. The answer of a call that was given up is dropped, and so is a second one.
func (s *Session) answer(id uint64, message protocol.GuestMessage, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.calls[id]; c != nil {
		c.result <- result{message, err}
		delete(s.calls, id)
	}
}

// unanswered returns the calls without an answer in the order in which they were made. The caller holds mu.
func (s *Session) unanswered() []*call {
	calls := make([]*call, 0, len(s.calls))
	for _, c := range s.calls {
		calls = append(calls, c)
	}
	slices.SortFunc(calls, func(a, b *call) int { return cmp.Compare(a.id, b.id) })
	return calls
}

// send writes the call's command. A command that cannot be written is its own answer; one that a broken connection lost goes
// out with the next connection.
func (s *Session) send(ctx context.Context, conn *protocol.HostConn, c *call) {
	err := conn.WriteCommand(protocol.WithTraceID(ctx, c.trace), c.id, c.command)
	if errdefs.IsInvalidArgument(err) || errdefs.IsResourceExhausted(err) {
		s.answer(c.id, nil, err)
	} else if err != nil {
		s.logger.Debug("guest was not sent a command", "call", c.id, "error", err)
	}
}
