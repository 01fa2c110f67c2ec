package runtime

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/time/rate"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/hypervisor/vsock"
)

const (
	// agentTokenTimeout is how long the guest may take from a connection to its token: the agent sends it at once.
	agentTokenTimeout = 10 * time.Second
	// maxTokenWaits is how many connections may be without their token yet; others are not accepted. It is more than any service serves, and
	// less than the vsock device accepts.
	maxTokenWaits = 128
)

// agentListener accepts what the guest's agent dials at a port of the host's. Every process of the guest that can make a vsock socket could
// dial it, too: the agent's connections begin with a token that the host tells it alone, and the others are hung up on before they take a
// place of the service's.
type agentListener struct {
	token    protocol.Token
	listener vsock.Listener
	log      *slog.Logger
	logs     *rate.Limiter // the guest can dial as often as it likes
	proven   chan net.Conn
	ctx      context.Context // ends with the listener
	end      context.CancelFunc
	done     chan struct{} // closed when nothing will be accepted any more
	err      error         // why; valid after done
}

// listenForAgent listens on a port of the host's, or on another if the guest has not the ports to itself.
func (s *Sandbox) listenForAgent(port uint32) (*agentListener, error) {
	listener, err := s.guest.Listen(port)
	if err != nil {
		return nil, err
	}
	return newAgentListener(listener, s.log), nil
}

// newAgentListener takes the listener over.
func newAgentListener(listener vsock.Listener, log *slog.Logger) *agentListener {
	l := &agentListener{
		token: protocol.NewToken(), listener: listener, log: log, logs: rate.NewLimiter(loggedRefusals, loggedRefusals),
		proven: make(chan net.Conn), done: make(chan struct{}),
	}
	l.ctx, l.end = context.WithCancel(context.Background())
	go l.run()
	return l
}

// run accepts until the listener is closed.
func (l *agentListener) run() {
	defer close(l.done)
	var waits sync.WaitGroup
	defer waits.Wait()
	places := make(chan struct{}, maxTokenWaits)
	for {
		select {
		case places <- struct{}{}:
		case <-l.ctx.Done():
			l.err = net.ErrClosed
			return
		}
		conn, err := l.listener.Accept(l.ctx)
		if err != nil {
			l.err = err
			return
		}
		waits.Go(func() {
			defer func() { <-places }()
			l.admit(conn)
		})
	}
}

// admit hands the agent's connection on, and closes a stranger's.
func (l *agentListener) admit(conn net.Conn) {
	stop := context.AfterFunc(l.ctx, func() { conn.Close() })
	err := l.checkToken(conn)
	if !stop() || err != nil {
		conn.Close()
		if l.ctx.Err() == nil && l.logs.Allow() {
			l.log.Warn("who dials a port of the agent's is hung up on", "port", l.Port(), "error", err)
		}
		return
	}
	select {
	case l.proven <- conn:
	case <-l.ctx.Done():
		conn.Close()
	}
}

// checkToken reads the token with which a connection of the agent's begins.
func (l *agentListener) checkToken(conn net.Conn) error {
	if err := conn.SetReadDeadline(time.Now().Add(agentTokenTimeout)); err != nil {
		return err
	}
	var told protocol.Token
	if _, err := io.ReadFull(conn, told[:]); err != nil {
		return fmt.Errorf("wait for its token: %w", err)
	}
	if subtle.ConstantTimeCompare(told[:], l.token[:]) != 1 {
		return fmt.Errorf("it is not the agent: %w", errdefs.ErrUnauthenticated)
	}
	return conn.SetReadDeadline(time.Time{})
}

// Port is what the agent is to dial.
func (l *agentListener) Port() uint32 { return l.listener.Port() }

// Accept returns the next connection of the agent's, without the token; net.ErrClosed after Close.
func (l *agentListener) Accept(ctx context.Context) (net.Conn, error) {
	select {
	case conn := <-l.proven:
		return conn, nil
	case <-l.done:
		if l.ctx.Err() != nil || errors.Is(l.err, net.ErrClosed) {
			return nil, net.ErrClosed
		}
		return nil, l.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Close stops listening. It may be called more than once.
func (l *agentListener) Close() error {
	l.end()
	err := l.listener.Close()
	<-l.done
	return err
}
