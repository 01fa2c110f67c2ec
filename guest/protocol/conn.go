package protocol

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/containerd/errdefs"
)

// maxPongs is how many pongs may be waiting to be written. A peer sends a ping when the last one was answered.
const maxPongs = 4

// Incoming is one frame that was received.
type Incoming[In any] struct {
	Type    FrameType
	Opcode  Opcode
	CallID  uint64
	TraceID string // "": none
	Message In     // nil if Error is set
	Error   *Error // the answer of a command that failed
}

// Conn is one side's end of a session's connection: what it says is Out, what it hears is In. Read answers pings, sends them,
// and gives up on a peer that is silent.
//
// The connection must be authenticated within HandshakeTimeout of NewHostConn or NewGuestConn; until Authenticated it is for
// one goroutine. After that one goroutine reads while any number write.
type Conn[Out, In any] struct {
	conn          net.Conn
	out           *Codec[Out]
	in            *Codec[In]
	reader        *Reader
	writer        *Writer
	writing       chan struct{} // holds one element while a frame is written
	ponging       chan struct{} // holds an element for each pong that is being written
	authenticated bool
	pings         uint64 // pings sent; a ping's data is its number
}

// HostConn is the host's end; GuestConn is the agent's.
type (
	HostConn  = Conn[HostMessage, GuestMessage]
	GuestConn = Conn[GuestMessage, HostMessage]
)

// NewHostConn begins a session on a connection, which it owns.
func NewHostConn(conn net.Conn) *HostConn { return newConn(conn, HostMessages, GuestMessages) }

// NewGuestConn begins a session on a connection, which it owns.
func NewGuestConn(conn net.Conn) *GuestConn { return newConn(conn, GuestMessages, HostMessages) }

func newConn[Out, In any](conn net.Conn, out *Codec[Out], in *Codec[In]) *Conn[Out, In] {
	_ = conn.SetDeadline(time.Now().Add(HandshakeTimeout)) // fails only on a closed connection, as the first read then does
	return &Conn[Out, In]{
		conn:    conn,
		out:     out,
		in:      in,
		reader:  NewReader(conn),
		writer:  NewWriter(conn),
		writing: make(chan struct{}, 1),
		ponging: make(chan struct{}, maxPongs),
	}
}

// Authenticated ends the handshake: payloads may have MaxPayload bytes, and keep-alive takes the place of the deadline.
func (c *Conn[Out, In]) Authenticated() {
	_ = c.conn.SetDeadline(time.Time{}) // as in newConn
	c.reader.SetMaxPayload(MaxPayload)
	c.authenticated = true
}

// Close ends the connection, and with an error whatever reads or writes.
func (c *Conn[Out, In]) Close() error { return c.conn.Close() }

// WriteCommand sends a command. A call id is never 0 and not used again for another command of the sandbox. Like every write
// it waits for the writes before it, as long as ctx allows; a write that fails half-way closes the connection.
func (c *Conn[Out, In]) WriteCommand(ctx context.Context, callID uint64, command Out) error {
	op, ok := commandOpcodes[c.out.Name(command)]
	if !ok {
		return fmt.Errorf("%T is not a command: %w", command, errdefs.ErrInvalidArgument)
	}
	return c.writeMessage(ctx, Header{Type: Command, Opcode: op, CallID: callID}, command)
}

// WriteResponse answers the command.
func (c *Conn[Out, In]) WriteResponse(ctx context.Context, command Incoming[In], answer Out) error {
	return c.writeMessage(ctx, Header{Type: Response, Opcode: command.Opcode, CallID: command.CallID}, answer)
}

// WriteError answers the command with an error, made into an Error by NewError.
func (c *Conn[Out, In]) WriteError(ctx context.Context, command Incoming[In], err error) error {
	payload, err := NewError(err).encode()
	if err != nil {
		return err
	}
	return c.write(ctx, Header{Type: Response, Error: true, Opcode: command.Opcode, CallID: command.CallID}, payload)
}

// WriteNotification says something that is not answered. The id is the request id of the process that it is about, or 0.
func (c *Conn[Out, In]) WriteNotification(ctx context.Context, id uint64, message Out) error {
	op, ok := notificationOpcodes[c.out.Name(message)]
	if !ok {
		return fmt.Errorf("%T is not a notification: %w", message, errdefs.ErrInvalidArgument)
	}
	return c.writeMessage(ctx, Header{Type: Notification, Opcode: op, CallID: id}, message)
}

// writeMessage sends a message with the trace id of ctx.
func (c *Conn[Out, In]) writeMessage(ctx context.Context, header Header, message Out) error {
	envelope := Envelope[Out]{Body: message}
	if trace := TraceID(ctx); trace != "" {
		envelope.TraceID = &trace
	}
	payload, err := c.out.EncodeEnvelope(envelope)
	if err != nil {
		return err
	}
	return c.write(ctx, header, payload)
}

func (c *Conn[Out, In]) write(ctx context.Context, header Header, payload []byte) error {
	if len(payload) > MaxPayload {
		return fmt.Errorf("message of %d bytes, want at most %d: %w", len(payload), MaxPayload, errdefs.ErrResourceExhausted)
	}
	select {
	case c.writing <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("write %v: %w", header.Type, ctx.Err())
	}
	defer func() { <-c.writing }()
	if c.authenticated {
		_ = c.conn.SetWriteDeadline(time.Now().Add(WriteTimeout)) // fails as in newConn
	}
	if err := c.writer.Write(header, payload); err != nil {
		_ = c.conn.Close() // a part of a frame may have gone out; nothing can follow it
		return fmt.Errorf("write %v: %w", header.Type, err)
	}
	return nil
}

// PayloadError is a payload that could not be understood, in a frame that was sound: the connection is still usable.
type PayloadError struct{ Err error }

func (e *PayloadError) Error() string { return e.Err.Error() }
func (e *PayloadError) Unwrap() error { return e.Err }

// Read returns the next command, response or notification; pings and pongs of an authenticated session are dealt with and not
// returned. A *PayloadError leaves the connection usable, and the Incoming has what the header says: a command can be answered
// with an error. Any other error is the connection's end: io.EOF if the peer closed it between two frames. Read does not close it.
func (c *Conn[Out, In]) Read() (Incoming[In], error) {
	for {
		header, err := c.readHeader()
		if err != nil {
			return Incoming[In]{}, err
		}
		payload, err := c.readPayload()
		if err != nil {
			return Incoming[In]{}, err
		}
		incoming := Incoming[In]{Type: header.Type, Opcode: header.Opcode, CallID: header.CallID}
		if err := c.decode(header, payload, &incoming); err != nil {
			return incoming, &PayloadError{err}
		}
		if !c.authenticated {
			return incoming, nil
		}
		kept, err := c.keepAlive(incoming)
		if err != nil {
			return Incoming[In]{}, err
		}
		if !kept {
			return incoming, nil
		}
	}
}

// readHeader waits for the next header. After PingIdle without one it sends a ping, and then gives the peer PingTimeout to say
// anything.
func (c *Conn[Out, In]) readHeader() (Header, error) {
	c.setReadDeadline(PingIdle)
	header, err := c.reader.ReadHeader()
	if !c.authenticated || !errors.Is(err, os.ErrDeadlineExceeded) {
		return header, err
	}
	c.pings++
	ping := Ping{Data: c.pings}
	// What fails to be written closes the connection, which the reading then finds.
	go func() { _ = c.WriteCommand(context.Background(), 0, any(ping).(Out)) }()
	c.setReadDeadline(PingTimeout)
	header, err = c.reader.ReadHeader()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return Header{}, fmt.Errorf("no answer to a ping within %v: %w", PingTimeout, errdefs.ErrUnavailable)
	}
	return header, err
}

func (c *Conn[Out, In]) readPayload() ([]byte, error) {
	c.setReadDeadline(PayloadTimeout)
	return c.reader.ReadPayload()
}

// setReadDeadline gives an authenticated connection so much time to be read. It fails on a closed connection only, of which the
// reading knows more to say.
func (c *Conn[Out, In]) setReadDeadline(d time.Duration) {
	if c.authenticated {
		_ = c.conn.SetReadDeadline(time.Now().Add(d))
	}
}

// decode fills in the message or the error of a frame, and checks that it is what the header says.
func (c *Conn[Out, In]) decode(header Header, payload []byte, incoming *Incoming[In]) (err error) {
	if header.Type == Response && header.Error {
		incoming.Error, err = decodeError(payload)
		return err
	}
	if header.Type == Stream {
		return malformed("stream frame in a session")
	}
	envelope, err := c.in.DecodeEnvelope(payload)
	if err != nil {
		return err
	}
	if incoming.Message = envelope.Body; envelope.TraceID != nil {
		incoming.TraceID = *envelope.TraceID
	}
	name := c.in.Name(incoming.Message)
	if header.Type == Command && name != commandNames[header.Opcode] ||
		header.Type == Notification && name != notificationNames[header.Opcode] {
		return malformed("%v with opcode %d and message %q", header.Type, header.Opcode, name)
	}
	return nil
}

// keepAlive deals with a ping or pong, and says whether it was one. The reading goes on while a pong is written: two peers that
// both wait to be read would wait for ever.
func (c *Conn[Out, In]) keepAlive(incoming Incoming[In]) (bool, error) {
	switch message := any(incoming.Message).(type) {
	case Ping:
		if incoming.Type != Command {
			return false, malformed("ping in a %v", incoming.Type)
		}
		select {
		case c.ponging <- struct{}{}:
		default:
			return false, malformed("ping before the last %d were answered", maxPongs)
		}
		go func() {
			defer func() { <-c.ponging }()
			_ = c.WriteResponse(context.Background(), incoming, any(Pong(message)).(Out)) // as for a ping
		}()
		return true, nil
	case Pong:
		if incoming.Type != Response || message.Data != c.pings {
			return false, malformed("pong to no ping")
		}
		return true, nil
	}
	return false, nil
}
