package vsock

import (
	"net"
	"sync"
)

// maxPortConns is how many connections the guest may have to one port of the host at the same time, with those that the host has closed and
// the guest has not: each is a file and a goroutine. No service has as many at work.
const maxPortConns = 256

// daemonListener accepts what the guest dials through the daemon. It pauses while there are too many connections: none is closed before the
// guest has ended it, see daemonConn, or drainTimeout has passed.
type daemonListener struct {
	*net.UnixListener
	places  chan struct{} // one element for each connection
	closing chan struct{}
	close   func() error
}

// newDaemonListener takes the listener over.
func newDaemonListener(listener *net.UnixListener, limit int) *daemonListener {
	l := &daemonListener{UnixListener: listener, places: make(chan struct{}, limit), closing: make(chan struct{})}
	l.close = sync.OnceValue(func() error {
		close(l.closing)
		return listener.Close()
	})
	return l
}

// Accept implements net.Listener.
func (l *daemonListener) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.closing:
		return nil, net.ErrClosed
	}
	conn, err := l.AcceptUnix()
	if err != nil {
		<-l.places
		return nil, err
	}
	return newDaemonConn(conn, func() { <-l.places }), nil
}

// Close implements net.Listener. Connections stay.
func (l *daemonListener) Close() error { return l.close() }
