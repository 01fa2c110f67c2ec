package client

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/time/rate"

	"github.com/limpet-run/limpet/guest/protocol"
)

const (
	// acceptPause is the least time between two connections of one guest: no more than an honest agent waits before it dials
	// again, and enough that a hostile one cannot keep the host busy.
	acceptPause = 50 * time.Millisecond
	// byeTimeout is how long Close tries to tell the guest: a guest that is well takes milliseconds, and nothing depends on it.
	byeTimeout = time.Second
	// absenceTimeout is how long a guest that was connected may take to call again. One that is well takes milliseconds, under emulation
	// on a busy host seconds. After that its agent hangs, and nothing could be asked of it ever again.
	absenceTimeout = 60 * time.Second
)

// Transport is how the host reaches one guest. Its connections belong to the session.
type Transport interface {
	// Accept waits for the next connection that the guest dials to the session port. An error is the transport's end.
	Accept(ctx context.Context) (net.Conn, error)
	// Dial connects to a port of the guest.
	Dial(ctx context.Context, port uint32) (net.Conn, error)
}

// Handler is told what the guest says unasked. Its methods are called one at a time, in order, from one goroutine, which reads
// nothing more meanwhile: they must not block for long, and not call Close.
type Handler interface {
	Exit(protocol.Exit)
	StreamEnd(protocol.StreamEnd)
	Event(protocol.Event)
}

// Options say with whom and for whom a Session speaks.
type Options struct {
	Token   string // the sandbox's secret; it is never logged
	Handler Handler
	// Data gives what the guest may ask for by name; an error is what it is told. Called from one goroutine. nil: nothing.
	Data   func(name string) ([]byte, error)
	Logger *slog.Logger
	// Name is that of a further session, to which the transport's connections lead (protocol.Auth.Session). Empty: it is the sandbox's own.
	Name string
}

// Session is a conversation with one guest's agent, over as many connections as it takes. Its methods are safe for concurrent use.
type Session struct {
	transport Transport
	token     protocol.Secret
	handler   Handler
	data      func(name string) ([]byte, error)
	logger    *slog.Logger
	name      string // of a further session

	ctx      context.Context // ends when the session is to end; its cause is why
	end      context.CancelCauseFunc
	ready    chan struct{} // closed after the first handshake
	acks     chan struct{} // holds one element if there is something new to acknowledge
	asked    chan string   // names that the guest has asked for
	warnings *rate.Limiter // of what the guest can bring about at will
	done     chan struct{} // closed when the session is over

	greeted    atomic.Pointer[time.Time] // see Greeted
	clockDelay atomic.Int64              // see ClockDelay

	mu       sync.Mutex
	hello    protocol.Hello // the first of a handshake that succeeded
	refused  error          // why the last connection was not taken
	conn     *protocol.HostConn
	latest   *link // the last that was taken
	calls    map[uint64]*call
	lastCall uint64
	seen     uint64 // the last sequence that was handled
}

// New begins a session: from here on connections of the guest are accepted. The session must be closed.
func New(transport Transport, options Options) *Session {
	ctx, end := context.WithCancelCause(context.Background())
	s := &Session{
		transport: transport,
		token:     protocol.Secret(options.Token),
		handler:   options.Handler,
		data:      options.Data,
		logger:    options.Logger,
		name:      options.Name,
		ctx:       ctx,
		end:       end,
		ready:     make(chan struct{}),
		acks:      make(chan struct{}, 1),
		asked:     make(chan string, maxAsked),
		warnings:  rate.NewLimiter(warningsPerSecond, warningsPerSecond),
		done:      make(chan struct{}),
		calls:     make(map[uint64]*call),
		lastCall:  firstCallID(),
	}
	go s.run()
	return s
}

// WaitReady waits for the first handshake and returns the agent's hello.
func (s *Session) WaitReady(ctx context.Context) (protocol.Hello, error) {
	select {
	case <-s.ready:
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.hello, nil
	case <-s.ctx.Done():
		return protocol.Hello{}, s.over()
	case <-ctx.Done():
		return protocol.Hello{}, s.notReady(ctx.Err())
	}
}

// Greeted is when the guest said hello in the last handshake. It is valid once the session is ready.
func (s *Session) Greeted() time.Time { return *s.greeted.Load() }

// ClockDelay is how long the guest took to answer the last handshake, by which it sets its clock: that is behind by no more. It is valid
// once the session is ready.
func (s *Session) ClockDelay() time.Duration { return time.Duration(s.clockDelay.Load()) }

func (s *Session) notReady(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refused != nil {
		return fmt.Errorf("the guest's agent is not ready: %w; its last connection: %w", err, s.refused)
	}
	return fmt.Errorf("the guest's agent is not ready, it has not called: %w", err)
}

// Done is closed when the session is over for good.
func (s *Session) Done() <-chan struct{} { return s.done }

// Close says goodbye to the guest, ends the session and the calls in flight, and waits until no handler runs.
func (s *Session) Close() error {
	if conn := s.current(); conn != nil {
		ctx, cancel := context.WithTimeout(s.ctx, byeTimeout)
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
		if err := conn.WriteNotification(ctx, 0, protocol.Bye{Reason: "closed by the host"}); err != nil {
			s.logger.Debug("guest was not told of the session's end", "error", err)
		}
		stop()
		cancel()
	}
	s.end(errClosed)
	<-s.done
	return nil
}

var errClosed = fmt.Errorf("closed by the host: %w", errdefs.ErrUnavailable)

// over is the error of whatever is asked of a session that has ended.
func (s *Session) over() error {
	return fmt.Errorf("session with the guest is over: %w", context.Cause(s.ctx))
}

func (s *Session) current() *protocol.HostConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn
}

// link is a connection in use.
type link struct {
	conn   *protocol.HostConn
	unbind func() bool   // ends the conn's dependence on the session
	gone   chan struct{} // closed when it has been given up, and no handler runs for it
}

// run takes connections until the session is to end.
func (s *Session) run() {
	defer close(s.done)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	tasks.Go(s.acknowledge)
	tasks.Go(s.giveData)

	var last *link
	for {
		conn, err := s.transport.Accept(s.ctx)
		if err != nil {
			s.end(fmt.Errorf("%w: accept a connection of the guest: %w", errdefs.ErrUnavailable, err))
			return
		}
		next, err := s.connect(conn)
		switch {
		case err == nil:
			if last != nil {
				_ = last.conn.Close()
				<-last.gone
			}
			last = next
			tasks.Go(func() { s.serve(next) })
			tasks.Go(func() { s.expire(next) })
		case last == nil && isFinal(err):
			s.end(err)
			return
		default:
			s.logger.Warn("connection of the guest refused", "error", err)
		}
		s.pause()
	}
}

// connect makes a connection one that can be used, or closes it. The session's end closes it too.
func (s *Session) connect(conn net.Conn) (*link, error) {
	next := &link{
		conn:   protocol.NewHostConn(conn),
		unbind: context.AfterFunc(s.ctx, func() { _ = conn.Close() }),
		gone:   make(chan struct{}),
	}
	hello, err := s.shakeHands(next.conn)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refused = err; err != nil {
		next.unbind()
		_ = conn.Close()
		return nil, err
	}
	s.latest = next
	if !s.isReady() {
		s.hello = hello
		s.seen = hello.LastAck // what another host process acknowledged is not sent again
		close(s.ready)
	}
	return next, nil
}

// expire ends the session if a link's end is not followed by another one within absenceTimeout.
func (s *Session) expire(l *link) {
	select {
	case <-l.gone:
	case <-s.ctx.Done():
		return
	}
	timer := time.NewTimer(absenceTimeout)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.ctx.Done():
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.latest == l {
		s.end(fmt.Errorf("%w: the agent has not called again for %v: the guest hangs", errdefs.ErrUnavailable, absenceTimeout))
	}
}

// pause waits for acceptPause or the session's end.
func (s *Session) pause() {
	select {
	case <-time.After(acceptPause):
	case <-s.ctx.Done():
	}
}

func (s *Session) isReady() bool {
	select {
	case <-s.ready:
		return true
	default:
		return false
	}
}
