package vsock

import (
	"context"
	"errors"
	"net"
	"sync"
)

// acceptor accepts from a listener on behalf of callers whose waits end with their contexts. At most one accepted connection waits
// for a caller: a guest that dials without end fills the listener's backlog and nothing else.
type acceptor struct {
	listener net.Listener
	port     uint32
	allowed  func(net.Conn) bool // by the peer's address
	conns    chan net.Conn
	closing  chan struct{}
	close    func() error
	done     chan struct{} // closed when nothing will be accepted any more
	err      error         // why; valid after done
}

// newAcceptor takes the listener over.
func newAcceptor(listener net.Listener, port uint32, allowed func(net.Conn) bool) *acceptor {
	a := &acceptor{
		listener: listener,
		port:     port,
		allowed:  allowed,
		conns:    make(chan net.Conn),
		closing:  make(chan struct{}),
		done:     make(chan struct{}),
	}
	a.close = sync.OnceValue(func() error {
		close(a.closing)
		err := listener.Close()
		<-a.done
		return err
	})
	go a.run()
	return a
}

func (a *acceptor) run() {
	defer close(a.done)
	for {
		conn, err := a.listener.Accept()
		if err != nil {
			a.err = err
			return
		}
		if !a.allowed(conn) {
			_ = conn.Close() // a stranger's
			continue
		}
		select {
		case a.conns <- conn:
		case <-a.closing:
			_ = conn.Close() // nobody will have it
			a.err = net.ErrClosed
			return
		}
	}
}

// Accept returns the next connection; net.ErrClosed after the close.
func (a *acceptor) Accept(ctx context.Context) (net.Conn, error) {
	select {
	case conn := <-a.conns:
		return conn, nil
	case <-a.done:
		if isClosed(a.closing) {
			return nil, net.ErrClosed
		}
		return nil, errors.Join(errors.New("the port is listened on no more"), a.err)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Port implements Listener.
func (a *acceptor) Port() uint32 { return a.port }

// Close implements Listener.
func (a *acceptor) Close() error { return a.close() }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
