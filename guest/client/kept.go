package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
)

const (
	// minRedial is the pause before a kept stream is opened again, which doubles up to maxRedial: as the agent's own before it dials. It is
	// also the least time from one connection to the next: a hostile guest could end each at once.
	minRedial = 50 * time.Millisecond
	maxRedial = 2 * time.Second
	// inputPiece is the most bytes of one write of input. What the host writes every backend of vsock passes in any size.
	inputPiece = 64 << 10
)

// OutputStream is the host's end of a process's output.
type OutputStream interface {
	io.ReadCloser
	SetReadDeadline(t time.Time) error
}

// InputStream is the host's end of a process's input.
type InputStream interface {
	io.Writer
	// CloseWrite ends the input after what was written. It does not wait, and what was written arrives all the same.
	CloseWrite() error
	// Close gives up what was written and has not arrived.
	Close() error
}

// OpenOutput opens the byte stream of a token as one that outlives its connections (protocol.Streams.Kept). It is the caller's.
func (s *Session) OpenOutput(ctx context.Context, token protocol.Token) (OutputStream, error) {
	redial, err := s.openKept(ctx, token)
	if err != nil {
		return nil, err
	}
	return protocol.NewReceiver(redial.next), nil
}

// OpenInput is OpenOutput for a process's input.
func (s *Session) OpenInput(ctx context.Context, token protocol.Token) (InputStream, error) {
	redial, err := s.openKept(ctx, token)
	if err != nil {
		return nil, err
	}
	sender := protocol.NewSender(redial.next, inputPiece)
	return &keptInput{Sender: sender, chunks: protocol.NewDuplex(nil, sender)}, nil
}

// openKept opens the first connection of a kept stream.
func (s *Session) openKept(ctx context.Context, token protocol.Token) (*redial, error) {
	r := &redial{session: s, token: token}
	conn, _, err := r.next(ctx, 0)
	r.first = conn
	return r, err
}

// redial makes the connections of a kept stream.
type redial struct {
	session *Session
	token   protocol.Token
	first   net.Conn  // not used yet
	opened  time.Time // the last one
}

// next is a protocol.Reconnect. It tries until ctx or the session ends, or the guest refuses.
func (r *redial) next(ctx context.Context, offset uint64) (net.Conn, uint64, error) {
	if conn := r.first; conn != nil {
		r.first = nil
		return conn, 0, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.session.ctx, cancel)()
	select {
	case <-time.After(minRedial - time.Since(r.opened)):
	case <-ctx.Done():
	}
	for pause := minRedial; ; pause = min(2*pause, maxRedial) {
		conn, err := r.session.openStream(ctx, protocol.Preamble{Kind: protocol.StreamKept, Token: r.token, Offset: offset})
		if err == nil {
			r.opened = time.Now()
			return conn, offset, nil
		}
		if errors.Is(err, protocol.ErrStreamRefused) {
			return nil, 0, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			if r.session.ctx.Err() != nil {
				err = fmt.Errorf("%w: %w", errdefs.ErrUnavailable, err)
			}
			return nil, 0, err
		}
	}
}

// keptInput is an InputStream.
type keptInput struct {
	*protocol.Sender
	chunks *protocol.Duplex
}

func (i *keptInput) Write(p []byte) (int, error) { return i.chunks.Write(p) }

// CloseWrite implements InputStream.
func (i *keptInput) CloseWrite() error {
	go func() {
		if i.chunks.CloseWrite() == nil { // else it is over
			i.Finish()
		}
	}()
	return nil
}
