package agent

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
)

const (
	// maxFurther bounds the connections of further sessions, and the sessions that are kept: a person has a few, a monitor one.
	maxFurther = 32
	// graceTimeout is how long a further session is kept whose connection has broken: as long as the host itself may be away.
	graceTimeout = time.Minute
)

// further is the further sessions that have a name.
type further struct {
	connections chan struct{} // holds an element for each

	mu       sync.Mutex
	sessions map[string]*session
}

func newFurther() *further {
	return &further{connections: make(chan struct{}, maxFurther), sessions: map[string]*session{}}
}

// ServeFurther has further sessions over the connections of the listener, which accepts only the host's, until it fails or ctx ends.
func (a *Agent) ServeFurther(ctx context.Context, listener net.Listener) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return fmt.Errorf("accept a further session: %w", err)
		}
		select {
		case a.further.connections <- struct{}{}:
		default:
			a.logger.Warn("further session refused: there are too many", "limit", maxFurther)
			conn.Close()
			continue
		}
		go func() {
			defer func() { <-a.further.connections }()
			_, err := a.converse(ctx, conn, 0, a.enterFurther)
			a.logger.Debug("connection of a further session ended", "error", err)
		}()
	}
}

// enterFurther lets the host into a further session, which it may have begun before.
func (a *Agent) enterFurther(auth protocol.Auth) (*session, error) {
	if a.knownToken() == "" {
		return nil, fmt.Errorf("the sandbox's own session comes first: %w", errdefs.ErrUnauthenticated)
	}
	if auth.Session == "" {
		return newSession(""), nil
	}
	if len(auth.Session) > protocol.MaxSessionName {
		return nil, fmt.Errorf("session's name of %d bytes, want at most %d: %w", len(auth.Session), protocol.MaxSessionName,
			errdefs.ErrInvalidArgument)
	}
	return a.further.enter(auth.Session)
}

// enter begins a session, or goes on with it. leave follows.
func (f *further) enter(name string) (*session, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.sessions[name]
	if s == nil {
		if len(f.sessions) >= maxFurther {
			return nil, fmt.Errorf("%d further sessions are kept: %w", maxFurther, errdefs.ErrResourceExhausted)
		}
		s = newSession(name)
		f.sessions[name] = s
	}
	s.connections++
	s.visits++
	return s, nil
}

// leave ends a connection of a session, and the session if nobody comes back to it in time.
func (f *further) leave(s *session) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s.connections--
	visits := s.visits
	switch {
	case s.connections > 0:
	case s.mayReturn():
		time.AfterFunc(graceTimeout, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			if s.visits == visits {
				delete(f.sessions, s.name)
			}
		})
	default:
		delete(f.sessions, s.name)
	}
}

// allows tells whether a further session may have a command carried out: what changes the sandbox is for the sandbox's own, whose host
// process keeps account of it.
func (s *session) allows(own *session, message protocol.HostMessage) error {
	if s == own {
		return nil
	}
	switch m := message.(type) {
	case protocol.Ack, protocol.Cancel, protocol.CloseStdin, protocol.ListPids, protocol.Resize, protocol.Signal, protocol.Stats,
		protocol.Wait:
		return nil
	case protocol.Exec:
		if m.RequestID&protocol.FurtherRequest == 0 {
			return fmt.Errorf("exec: the request id of a process of a further session has the bit %#x: %w", protocol.FurtherRequest,
				errdefs.ErrInvalidArgument)
		}
		return nil
	}
	return fmt.Errorf("command %s: it is for the sandbox's own session only: %w", protocol.HostMessages.Name(message),
		errdefs.ErrPermissionDenied)
}
