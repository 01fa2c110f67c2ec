package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/limpet-run/limpet/guest/protocol"
)

// exchangeTimeout is how long an answer may take: longer than the host asks name servers, and than clients wait.
const exchangeTimeout = 15 * time.Second

// pool are connections to the host's resolver, each of which is asked one question at a time.
type pool struct {
	dial func(context.Context) (net.Conn, error)
	kind byte          // see protocol.Resolver
	idle chan net.Conn // those that wait for a question
	busy chan struct{} // one element for each question on its way
}

func newPool(kind byte, size int, dial func(context.Context) (net.Conn, error)) *pool {
	return &pool{dial: dial, kind: kind, idle: make(chan net.Conn, size), busy: make(chan struct{}, size)}
}

// exchange asks the host, and returns its answer. It waits while too many ask.
func (p *pool) exchange(ctx context.Context, question []byte) ([]byte, error) {
	select {
	case p.busy <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-p.busy }()
	select {
	case conn := <-p.idle:
		answer, err := p.ask(ctx, conn, question)
		if err == nil {
			return answer, nil
		}
		// The host may have ended it long ago.
	default:
	}
	conn, err := p.open(ctx)
	if err != nil {
		return nil, err
	}
	return p.ask(ctx, conn, question)
}

func (p *pool) open(ctx context.Context) (net.Conn, error) {
	conn, err := p.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("reach the host's resolver: %w", err)
	}
	if _, err := conn.Write([]byte{p.kind}); err != nil {
		return nil, errors.Join(fmt.Errorf("reach the host's resolver: %w", err), conn.Close())
	}
	return conn, nil
}

// ask asks by one connection, and keeps it for the next question if all went well.
func (p *pool) ask(ctx context.Context, conn net.Conn, question []byte) ([]byte, error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	err := protocol.WriteDNS(conn, question)
	var answer []byte
	if err == nil {
		answer, err = protocol.ReadDNS(conn, protocol.MaxAnswer)
	}
	if !stop() || err != nil {
		return nil, errors.Join(fmt.Errorf("ask the host's resolver: %w", err), ctx.Err(), conn.Close())
	}
	p.idle <- conn // there is room for as many as there are questions on their way
	return answer, nil
}
