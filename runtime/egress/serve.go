package egress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
)

const (
	// answerTimeout bounds one question: all servers may be silent, over UDP and TCP.
	answerTimeout = 2 * MaxServers * serverTimeout
	// writeTimeout is how long the guest may take to take an answer.
	writeTimeout = 10 * time.Second
)

// Listener accepts what the guest's resolver dials.
type Listener interface {
	Accept(ctx context.Context) (net.Conn, error)
}

// Serve answers what is asked by the connections of a listener, until ctx ends or the listener does, and closes them. See
// protocol.Resolver.
func (f *Filter) Serve(ctx context.Context, listener Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	free := make(chan struct{}, protocol.MaxResolverConns)
	for {
		select {
		case free <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		conn, err := listener.Accept(ctx)
		if err != nil {
			return err
		}
		group.Go(func() {
			defer func() { <-free }()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			defer conn.Close()
			if err := f.serveConn(ctx, conn); !errors.Is(err, io.EOF) && ctx.Err() == nil {
				f.log(slog.LevelWarn, "connection of the guest's resolver ended", "error", err)
			}
		})
	}
}

// serveConn answers one question after the other. A connection may be silent for as long as it likes.
func (f *Filter) serveConn(ctx context.Context, conn net.Conn) error {
	kind := make([]byte, 1)
	if _, err := io.ReadFull(conn, kind); err != nil {
		return err
	}
	if kind[0] != protocol.ResolverDatagrams && kind[0] != protocol.ResolverStream {
		return fmt.Errorf("questions of kind %d: %w", kind[0], errdefs.ErrInvalidArgument)
	}
	for {
		question, err := protocol.ReadDNS(conn, protocol.MaxQuestion)
		if err != nil {
			return err
		}
		answer := f.answerInTime(ctx, kind[0], question)
		if err := conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
			return err
		}
		if err := protocol.WriteDNS(conn, answer); err != nil {
			return err
		}
	}
}

func (f *Filter) answerInTime(ctx context.Context, kind byte, question []byte) []byte {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	return f.answer(ctx, kind, question)
}
