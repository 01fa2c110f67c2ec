package client

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
)

// errBye ends a connection that the guest closes on purpose.
var errBye = errors.New("the guest said goodbye")

// serve makes the connection the one in use and reads it to its end.
func (s *Session) serve(l *link) {
	defer close(l.gone)
	defer l.unbind()
	// Beside the reading, because the guest may first want to be read before it reads.
	unanswered := s.use(l.conn)
	resent := make(chan struct{})
	go func() {
		defer close(resent)
		for _, c := range unanswered {
			s.send(s.ctx, l.conn, c)
		}
	}()

	err := s.readAll(l.conn)
	s.unuse(l.conn)
	_ = l.conn.Close()
	<-resent
	if s.ctx.Err() == nil {
		s.logger.Info("connection of the guest ended", "error", err)
	}
}

// use makes the connection the one that calls are sent on, and returns the calls that were made before.
func (s *Session) use(conn *protocol.HostConn) []*call {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = conn
	return s.unanswered()
}

func (s *Session) unuse(conn *protocol.HostConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == conn {
		s.conn = nil
	}
}

func (s *Session) readAll(conn *protocol.HostConn) error {
	for {
		incoming, err := conn.Read()
		if _, ok := errors.AsType[*protocol.PayloadError](err); ok && incoming.Type == protocol.Response {
			// Sending the command again would bring the same answer.
			s.answer(incoming.CallID, nil, fmt.Errorf("the agent's answer: %v: %w", err, errdefs.ErrInternal))
			continue
		}
		if err != nil {
			return err
		}
		switch incoming.Type {
		case protocol.Response:
			if incoming.Error != nil {
				s.answer(incoming.CallID, nil, incoming.Error)
			} else {
				s.answer(incoming.CallID, incoming.Message, nil)
			}
		case protocol.Notification:
			err = s.notice(incoming.Message)
		default:
			err = unexpected(incoming)
		}
		if err != nil {
			return err
		}
	}
}

// notice deals with what the guest says unasked.
func (s *Session) notice(message protocol.GuestMessage) error {
	switch m := message.(type) {
	case protocol.Exit:
		return s.inOrder(m.Sequence, func() { s.handler.Exit(m) })
	case protocol.StreamEnd:
		return s.inOrder(m.Sequence, func() { s.handler.StreamEnd(m) })
	case protocol.Event:
		s.handler.Event(m)
	case protocol.Progress:
		s.logger.Debug("guest's progress", "call", m.CallID, "message", m.Message)
	case protocol.DataRequest:
		if len(m.Name) > maxAskedName {
			return fmt.Errorf("the guest asks for a name of %d bytes: %w", len(m.Name), errdefs.ErrInvalidArgument)
		}
		select {
		case s.asked <- m.Name:
		default: // the guest asks again for what it needs
			s.warn("the guest asks for too much at once")
		}
	case protocol.Bye:
		return fmt.Errorf("%w: %.256q", errBye, m.Reason)
	default:
		return fmt.Errorf("unexpected notification %T: %w", message, errdefs.ErrInvalidArgument)
	}
	return nil
}

func unexpected(incoming protocol.Incoming[protocol.GuestMessage]) error {
	return fmt.Errorf("unexpected %v %T: %w", incoming.Type, incoming.Message, errdefs.ErrInvalidArgument)
}

// inOrder handles what has a sequence once, and has it acknowledged.
func (s *Session) inOrder(sequence uint64, handle func()) error {
	s.mu.Lock()
	seen := s.seen
	s.mu.Unlock()
	switch {
	case sequence == 0 || sequence > seen+1:
		return fmt.Errorf("sequence %d after %d: %w", sequence, seen, errdefs.ErrInvalidArgument)
	case sequence <= seen:
		return nil // sent again, because the acknowledgement was lost
	}
	handle()
	s.mu.Lock()
	s.seen = sequence
	s.mu.Unlock()
	select {
	case s.acks <- struct{}{}:
	default: // the acknowledgement to come covers this one
	}
	return nil
}

// acknowledge tells the agent what it may forget, until the session ends. While one acknowledgement is under way the next
// gathers.
func (s *Session) acknowledge() {
	for {
		select {
		case <-s.acks:
		case <-s.ctx.Done():
			return
		}
		s.mu.Lock()
		seen := s.seen
		s.mu.Unlock()
		if err := s.Do(s.ctx, protocol.Ack{Sequence: seen}); err != nil && s.ctx.Err() == nil {
			s.logger.Warn("guest did not take the acknowledgement", "sequence", seen, "error", err)
		}
	}
}
