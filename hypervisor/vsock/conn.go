package vsock

import (
	"io"
	"net"
	"sync"
	"time"
)

// drainTimeout is how long the guest may take to end a connection that the host has ended. A guest that is well does so at once.
const drainTimeout = 10 * time.Second

// daemonConn is a connection with the guest through the daemon. Version 0.3.0 of that panics, and the guest is cut off for good, if it has
// bytes of the guest that it cannot write to the host. So what it still sends after Close is read and dropped.
type daemonConn struct {
	*net.UnixConn
	close func() error
}

// newDaemonConn takes the connection over. gone is called once, when the guest has nothing more to say after Close, or no more time.
func newDaemonConn(conn *net.UnixConn, gone func()) *daemonConn {
	return &daemonConn{conn, sync.OnceValue(func() error { return closeDrained(conn, gone) })}
}

// Close implements net.Conn. It does not wait.
func (c *daemonConn) Close() error { return c.close() }

// closeDrained ends a connection for its user at once, and for the daemon as soon as that has nothing more to say.
func closeDrained(conn *net.UnixConn, gone func()) error {
	rest, err := duplicate(conn)
	if err != nil {
		defer gone()
		return conn.Close()
	}
	_ = conn.CloseWrite() // fails if the daemon has closed first
	err = conn.Close()
	go func() {
		defer gone()
		defer rest.Close()
		if rest.SetReadDeadline(time.Now().Add(drainTimeout)) == nil {
			_, _ = io.Copy(io.Discard, rest)
		}
	}()
	return err
}

// duplicate returns the same connection once more.
func duplicate(conn *net.UnixConn) (net.Conn, error) {
	file, err := conn.File()
	if err != nil {
		return nil, err
	}
	defer file.Close() // FileConn duplicates
	return net.FileConn(file)
}
