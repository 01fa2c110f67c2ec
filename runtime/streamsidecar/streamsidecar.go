// Package streamsidecar answers byte streams on this host: connections that begin with a preamble (see protocol.Preamble) and then are
// what its kind says. What is no preamble, or of a kind that is not served, is closed without an answer.
package streamsidecar

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
)

// Visitor is a connection with who wants a byte stream: a *net.UnixConn or a *net.TCPConn.
type Visitor interface {
	protocol.HalfCloser
	net.Conn
	watched
}

// Service is a kind of byte stream: it serves a visitor whose preamble has been read, and returns when the stream is over. The context ends
// no later than the visitor's connection is to; both directions of it are the service's, it itself is not.
type Service func(ctx context.Context, visitor Visitor, preamble protocol.Preamble) error

// Services are what a listener has to offer.
type Services map[protocol.StreamKind]Service

// Serve reads a visitor's preamble and serves it. The visitor is the caller's, who closes it afterwards, or when the context ends.
func (s Services) Serve(ctx context.Context, visitor Visitor) error {
	return s.serve(ctx, visitor, protocol.PreambleTimeout)
}

// serve gives the visitor that long for his preamble.
func (s Services) serve(ctx context.Context, visitor Visitor, limit time.Duration) error {
	if err := visitor.SetDeadline(time.Now().Add(limit)); err != nil {
		return fmt.Errorf("serve a byte stream: %w", err)
	}
	preamble, err := protocol.ReadPreamble(visitor)
	if err != nil {
		return err
	}
	service := s[preamble.Kind]
	if service == nil {
		return fmt.Errorf("byte streams of kind %#x are not served here: %w", uint8(preamble.Kind), errdefs.ErrInvalidArgument)
	}
	if err := visitor.SetDeadline(time.Time{}); err != nil {
		return fmt.Errorf("serve a byte stream: %w", err)
	}
	if err := service(ctx, visitor, preamble); err != nil {
		return fmt.Errorf("byte stream of kind %#x: %w", uint8(preamble.Kind), err)
	}
	return nil
}

// opener opens what a preamble names.
type opener[S io.Closer] func(ctx context.Context, preamble protocol.Preamble) (S, error)

// answered has a status sent to the visitor before the stream, or instead of it.
func answered[S io.Closer](open opener[S], carry func(Visitor, S) error) Service {
	return func(ctx context.Context, visitor Visitor, preamble protocol.Preamble) error {
		stream, err := open(ctx, preamble)
		if err != nil {
			_ = protocol.WriteStatus(visitor, err) // nothing follows
			return err
		}
		defer stream.Close()
		if err := protocol.WriteStatus(visitor, nil); err != nil {
			return err
		}
		return carryUntil(ctx, visitor, stream, carry)
	}
}

// unanswered begins the stream at once. Without one the visitor is hung up on.
func unanswered[S io.Closer](open opener[S], carry func(Visitor, S) error) Service {
	return func(ctx context.Context, visitor Visitor, preamble protocol.Preamble) error {
		stream, err := open(ctx, preamble)
		if err != nil {
			return err
		}
		defer stream.Close()
		return carryUntil(ctx, visitor, stream, carry)
	}
}

// carryUntil carries bytes until the stream is over or the context ends.
func carryUntil[S io.Closer](ctx context.Context, visitor Visitor, stream S, carry func(Visitor, S) error) error {
	defer context.AfterFunc(ctx, func() { _ = stream.Close() })() // who writes to it may have to wait for its reader
	return carry(visitor, stream)
}
