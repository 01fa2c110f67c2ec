package streams

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/limpet-run/limpet/guest/protocol"
)

// hangUpTimeout is how long the host may take to close a stream that is over: it does so at once, but what is on its way to a busy
// host is read before.
const hangUpTimeout = 10 * time.Second

// join joins the host's connection, and its other half, to a socket of the guest. It does not close the connection.
func (s *Server) join(conn net.Conn, dial func() (protocol.HalfCloser, error)) {
	target, err := dial()
	if err != nil {
		if protocol.WriteStatus(conn, err) == nil {
			awaitHangUp(conn)
		}
		return
	}
	defer target.Close()
	half, err := s.otherHalf(conn)
	if err != nil {
		s.logger.Warn("byte stream without its other half", "error", err)
		protocol.Reset(target)
		return
	}
	duplex := protocol.NewDuplex(half, conn)
	defer duplex.Close()
	if protocol.Join(duplex, target) == nil {
		awaitHangUp(conn)
	}
}

// joinPlain joins the host's connection, without an answer, to a socket of the guest. It does not close the connection.
func (s *Server) joinPlain(conn net.Conn, dial func() (protocol.HalfCloser, error)) {
	target, err := dial()
	if err != nil {
		s.logger.Warn("byte stream refused", "error", err)
		return
	}
	defer target.Close()
	host, ok := conn.(protocol.HalfCloser)
	if !ok || conn.SetDeadline(time.Time{}) != nil {
		return
	}
	if protocol.Join(host, target) == nil {
		awaitHangUp(conn)
	}
}

// otherHalf accepts the stream and waits for the half of it that the guest reads.
func (s *Server) otherHalf(conn net.Conn) (net.Conn, error) {
	if err := protocol.WriteStatus(conn, nil); err != nil {
		return nil, err
	}
	var token protocol.Token
	if _, err := io.ReadFull(conn, token[:]); err != nil {
		return nil, fmt.Errorf("read the token of a byte stream: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), protocol.PreambleTimeout)
	defer cancel()
	half, err := s.Claim(ctx, token)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, errors.Join(err, half.Close())
	}
	return half, nil
}

// awaitHangUp leaves the closing to the host: if the guest closes first, not every backend of vsock delivers what is on its way.
func awaitHangUp(conn net.Conn) {
	if err := conn.SetDeadline(time.Now().Add(hangUpTimeout)); err == nil {
		_, _ = conn.Read(make([]byte, 1)) // whatever ends it
	}
}

// dialPort connects to a port of the guest's loopback.
func dialPort(port uint16) (protocol.HalfCloser, error) {
	number := strconv.Itoa(int(port))
	target, err4 := dial("tcp", net.JoinHostPort("127.0.0.1", number))
	if err4 == nil {
		return target, nil
	}
	target, err6 := dial("tcp", net.JoinHostPort("::1", number))
	if err6 == nil {
		return target, nil
	}
	return nil, fmt.Errorf("%w; %w", err4, err6)
}

// dial connects to a socket that knows half-close, as all of TCP and of unix streams do.
func dial(network, address string) (protocol.HalfCloser, error) {
	dialer := net.Dialer{Timeout: protocol.PreambleTimeout / 2} // so that two of them stay within the host's time
	conn, err := dialer.Dial(network, address)
	if err != nil {
		return nil, err
	}
	return conn.(protocol.HalfCloser), nil
}
