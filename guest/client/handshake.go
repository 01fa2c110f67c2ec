package client

import (
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
)

// shakeHands brings a new connection to the point where calls can be made. It takes at most protocol.HandshakeTimeout.
func (s *Session) shakeHands(conn *protocol.HostConn) (hello protocol.Hello, err error) {
	if hello, err = read[protocol.Hello](conn, protocol.Notification); err != nil {
		return hello, err
	}
	if err := s.checkHello(hello); err != nil {
		return hello, err
	}
	began := time.Now()
	s.greeted.Store(&began)
	if err := conn.WriteCommand(s.ctx, s.nextCallID(), s.auth()); err != nil {
		return hello, err
	}
	if _, err := read[protocol.AuthOK](conn, protocol.Response); err != nil {
		return hello, err
	}
	s.clockDelay.Store(int64(time.Since(began)))
	if _, err := read[protocol.Ready](conn, protocol.Notification); err != nil {
		return hello, err
	}
	conn.Authenticated()
	s.logger.Debug("session with the guest begun", "agent", hello.AgentVersion, "acknowledged", hello.LastAck)
	return hello, nil
}

// read reads the one message that may come next.
func read[T protocol.GuestMessage](conn *protocol.HostConn, want protocol.FrameType) (message T, err error) {
	incoming, err := conn.Read()
	if err != nil {
		return message, fmt.Errorf("wait for %T: %w", message, err)
	}
	if incoming.Error != nil {
		return message, fmt.Errorf("wait for %T: the agent answers: %w", message, incoming.Error)
	}
	message, ok := incoming.Message.(T)
	if !ok || incoming.Type != want {
		return message, fmt.Errorf("wait for %T: %v %T came: %w", message, incoming.Type, incoming.Message, errdefs.ErrInvalidArgument)
	}
	return message, nil
}

// checkHello decides whether the session can be had, or gone on with, with this agent.
func (s *Session) checkHello(hello protocol.Hello) error {
	if hello.ProtocolVersion != protocol.Version {
		return fmt.Errorf("agent %q speaks version %d of the protocol, want %d: build the guest image and limpet from the same source: %w",
			hello.AgentVersion, hello.ProtocolVersion, protocol.Version, errdefs.ErrFailedPrecondition)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isReady() && subtle.ConstantTimeCompare([]byte(hello.BootID), []byte(s.hello.BootID)) != 1 {
		return fmt.Errorf("hello with another boot id: not the session's agent, or the guest has booted again: %w",
			errdefs.ErrUnauthenticated)
	}
	return nil
}

// isFinal says whether a handshake that failed would fail again in the same way.
func isFinal(err error) bool {
	return errdefs.IsFailedPrecondition(err) || errdefs.IsUnauthorized(err)
}

// auth is the host's half of the handshake. In the sandbox's own session clock and randomness ride in it, so that they cost no round trip.
func (s *Session) auth() protocol.Auth {
	s.mu.Lock()
	defer s.mu.Unlock()
	auth := protocol.Auth{Token: s.token, ProtocolVersion: protocol.Version, Ack: s.seen, Session: s.name}
	if s.name == "" {
		auth.Entropy = make([]byte, protocol.MaxEntropy)
		_, _ = rand.Read(auth.Entropy) // never fails: see crypto/rand
		clock := time.Now().UnixNano()
		auth.Clock = &clock
	}
	return auth
}
