package client

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/limpet-run/limpet/guest/protocol"
)

// streamTimeout is how long the opening of a byte stream may take: the guest has to answer only that it knows the token, or to
// connect to a socket of its own.
const streamTimeout = 10 * time.Second

// OpenStream opens the byte stream of a token. The connection is the caller's.
func (s *Session) OpenStream(ctx context.Context, token protocol.Token) (net.Conn, error) {
	return s.openStream(ctx, protocol.Preamble{Kind: protocol.StreamProcess, Token: token})
}

// DialPort connects to a TCP port of the guest's loopback. The stream is the caller's. protocol.ErrStreamRefused: nobody listens.
func (s *Session) DialPort(ctx context.Context, port uint16) (protocol.HalfCloser, error) {
	return s.openDuplex(ctx, protocol.Preamble{Kind: protocol.StreamTCP, Port: port})
}

// DialUnix connects to a unix socket in the guest. The stream is the caller's. protocol.ErrStreamRefused: nobody listens.
func (s *Session) DialUnix(ctx context.Context, path string) (protocol.HalfCloser, error) {
	return s.openDuplex(ctx, protocol.Preamble{Kind: protocol.StreamUnix, Path: path})
}

// DialContainerd connects to a containerd that runs in the guest. The stream is the caller's. protocol.ErrStreamRefused: there is none.
func (s *Session) DialContainerd(ctx context.Context) (protocol.HalfCloser, error) {
	return s.openDuplex(ctx, protocol.Preamble{Kind: protocol.StreamContainerdDuplex})
}

// OpenFIFO has a FIFO made in the guest: what is read is its path, see protocol.ReadOutputPath, then what is written to it, until its
// writers are gone. The stream is the caller's, and the FIFO is there for as long. protocol.ErrStreamRefused: there is no place for it.
func (s *Session) OpenFIFO(ctx context.Context) (io.ReadCloser, error) {
	return s.openDuplex(ctx, protocol.Preamble{Kind: protocol.StreamOutputDuplex})
}

// Dial connects to a port of the guest's vsock. The connection is the caller's. It is not for what sends much both ways at once, or
// ends one direction before the other: not every backend of vsock can.
func (s *Session) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	return s.transport.Dial(ctx, port)
}

// openDuplex opens a stream both of whose directions carry data.
func (s *Session) openDuplex(ctx context.Context, preamble protocol.Preamble) (protocol.HalfCloser, error) {
	in, err := s.openStream(ctx, preamble)
	if err != nil {
		return nil, err
	}
	token := protocol.NewToken()
	if _, err = in.Write(token[:]); err != nil {
		_ = in.Close()
		return nil, fmt.Errorf("open stream of the guest: %w", err)
	}
	out, err := s.OpenStream(ctx, token)
	if err != nil {
		_ = in.Close()
		return nil, err
	}
	return protocol.NewDuplex(in, out), nil
}

// OpenListeners opens the stream by which the guest tells who listens in it, to be read by protocol.ReadListeners. It is the caller's.
func (s *Session) OpenListeners(ctx context.Context) (io.ReadCloser, error) {
	return s.openStream(ctx, protocol.Preamble{Kind: protocol.StreamListeners})
}

// openStream opens a byte stream that is answered by a status.
func (s *Session) openStream(ctx context.Context, preamble protocol.Preamble) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	conn, err := s.Dial(ctx, protocol.StreamPort)
	if err != nil {
		return nil, fmt.Errorf("open stream of the guest: %w", err)
	}
	if err := claim(ctx, conn, preamble); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("open stream of the guest: %w", err)
	}
	return conn, nil
}

// claim asks for a stream on a new connection.
func claim(ctx context.Context, conn net.Conn, preamble protocol.Preamble) error {
	interrupted := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err := protocol.WritePreamble(conn, preamble)
	if err == nil {
		err = protocol.ReadStatus(conn)
	}
	if !interrupted() {
		return ctx.Err() // and the deadline may still be about to be set
	}
	return err
}
