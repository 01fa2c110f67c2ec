package requests

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/limpet-run/limpet/guest/protocol"
)

// drainStep is how much of a message that is too large is read with one deadline of protocol.PayloadTimeout.
const drainStep = 1 << 20

// errSilent ends a connection whose place another one takes.
var errSilent = errors.New("it was silent, and another one wants its place")

// conn is one client.
type conn struct {
	raw     net.Conn
	server  *Server
	logger  *slog.Logger
	ctx     context.Context // ends with the connection
	cancel  context.CancelCauseFunc
	reader  *bufio.Reader
	inbox   chan incoming
	writing chan struct{} // holds one element while a message is written

	waiting time.Time // since when a request is waited for; zero: one is served. Guarded by server.mu

	// Of the goroutine that serves.
	traceID *string // of the request that is served
	upload  *upload // the one that was begun
	after   func()  // to be called once the request is answered
}

// incoming is one request, or why it is none.
type incoming struct {
	protocol.Envelope[protocol.AgentRequest]
	err  error
	rest int64  // bytes of a message that is too large, which are still to be read
	done func() // the message's memory may be used for another one
}

func newConn(server *Server, raw net.Conn) *conn {
	c := &conn{
		raw: raw, server: server, logger: server.Logger, reader: bufio.NewReaderSize(raw, protocol.MaxWrite),
		inbox: make(chan incoming), writing: make(chan struct{}, 1), waiting: time.Now(),
	}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	return c
}

// serve serves the client until it is gone.
func (c *conn) serve() {
	stop := context.AfterFunc(c.ctx, func() { c.raw.Close() })
	defer stop()
	defer c.raw.Close()
	defer c.cancel(nil)
	defer c.abortUpload()
	go c.read()
	for {
		select {
		case <-c.ctx.Done():
			c.logger.Debug("connection for machine requests ended", "error", context.Cause(c.ctx))
			return
		case in := <-c.inbox:
			c.server.setWaiting(c, false)
			c.handle(in)
			in.done()
			c.server.setWaiting(c, true)
		}
	}
}

// handle serves one request and answers it.
func (c *conn) handle(in incoming) {
	c.traceID = in.TraceID
	ctx := c.ctx
	if in.TraceID != nil {
		ctx = protocol.WithTraceID(ctx, *in.TraceID)
	}
	answer, err := protocol.AgentResponse(nil), in.err
	name := "unknown"
	if err == nil {
		name = protocol.AgentRequests.Name(in.Body)
		if _, chunk := in.Body.(protocol.FileWriteChunkRequest); !chunk {
			c.abortUpload()
		}
		answer, err = c.server.dispatch(ctx, c, in.Body)
	}
	c.log(ctx, name, err)
	if err != nil {
		answer = errorResponse(err)
	}
	if answer != nil {
		_ = c.send(answer)
	}
	if c.after != nil {
		c.after()
		c.after = nil
	}
}

// log notes a request that was served. What costs little and comes often is not worth a line.
func (c *conn) log(ctx context.Context, name string, err error) {
	level := slog.LevelInfo
	switch name {
	case "ping", "file_write_chunk":
		level = slog.LevelDebug
	}
	attributes := []any{"method", name}
	if err != nil {
		level = slog.LevelWarn
		attributes = append(attributes, "error", err)
	}
	c.logger.Log(ctx, level, "machine request", attributes...)
}

// send sends an answer. That it cannot be sent is the connection's end, which ends whatever is served.
func (c *conn) send(answer protocol.AgentResponse) error {
	message, err := protocol.AgentResponses.EncodeEnvelope(protocol.Envelope[protocol.AgentResponse]{TraceID: c.traceID, Body: answer})
	if err != nil {
		c.logger.Error("answer not sent", "error", err)
		answer = errorResponse(failed(protocol.CodeSerialization, err))
		if message, err = protocol.AgentResponses.Encode(answer); err != nil {
			c.cancel(err)
			return err
		}
	}
	return c.write(func() error { return protocol.WriteMessage(c.raw, message) })
}

// sendCompleted sends a captured command's result, which may be large.
func (c *conn) sendCompleted(result protocol.CompletedResponse) error {
	return c.write(func() error { return protocol.WriteCompleted(c.raw, c.traceID, result) })
}

// write has one message written at a time.
func (c *conn) write(message func() error) error {
	select {
	case c.writing <- struct{}{}:
	case <-c.ctx.Done():
		return context.Cause(c.ctx)
	}
	defer func() { <-c.writing }()
	err := message()
	if err != nil {
		c.cancel(err)
	}
	return err
}

// read reads requests, one ahead of what is served, until the client is gone.
func (c *conn) read() {
	for {
		in, err := c.next()
		if err != nil {
			c.cancel(err)
			return
		}
		select {
		case c.inbox <- in:
		case <-c.ctx.Done():
			in.done()
			return
		}
		if err := c.drop(in.rest); err != nil {
			c.cancel(err)
			return
		}
	}
}

// next reads one request. An error is the connection's end; a request that makes no sense is none.
func (c *conn) next() (incoming, error) {
	if err := c.raw.SetReadDeadline(time.Time{}); err != nil {
		return incoming{}, err
	}
	if _, err := c.reader.Peek(1); err != nil { // however long it takes
		return incoming{}, err
	}
	if err := c.raw.SetReadDeadline(time.Now().Add(protocol.PayloadTimeout)); err != nil {
		return incoming{}, err
	}
	in := incoming{done: func() {}}
	length, err := c.reader.Peek(4)
	if err == nil {
		if size := binary.BigEndian.Uint32(length); size > largeMessage && size <= protocol.MaxPayload {
			if err := c.reserve(); err != nil {
				return incoming{}, err
			}
			in.done = func() { <-c.server.large }
		}
	}
	message, err := protocol.ReadMessage(c.reader)
	if tooLarge, ok := errors.AsType[*protocol.MessageTooLargeError](err); ok {
		in.err, in.rest = failed(protocol.CodeMessageTooLarge, err), int64(tooLarge.Size)
		return in, nil
	}
	if err != nil {
		in.done()
		return incoming{}, err
	}
	in.Envelope, err = protocol.AgentRequests.DecodeEnvelope(message)
	if err != nil {
		in.err = failed(protocol.CodeInvalidRequest, err)
	}
	return in, nil
}

// reserve waits until no other large message is in memory.
func (c *conn) reserve() error {
	timeout := time.NewTimer(protocol.PayloadTimeout)
	defer timeout.Stop()
	select {
	case c.server.large <- struct{}{}:
		return c.raw.SetReadDeadline(time.Now().Add(protocol.PayloadTimeout))
	case <-timeout.C:
		return fmt.Errorf("a large message of another connection takes longer than %v", protocol.PayloadTimeout)
	case <-c.ctx.Done():
		return context.Cause(c.ctx)
	}
}

// drop reads so many bytes and forgets them.
func (c *conn) drop(size int64) error {
	for ; size > 0; size -= drainStep {
		if err := c.raw.SetReadDeadline(time.Now().Add(protocol.PayloadTimeout)); err != nil {
			return err
		}
		if _, err := io.CopyN(io.Discard, c.reader, min(size, drainStep)); err != nil {
			return err
		}
	}
	return nil
}
