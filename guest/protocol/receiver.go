package protocol

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// hangUpTimeout is how long the sender may take to hang up once it was told that the stream is over.
const hangUpTimeout = 10 * time.Second

// Receiver is the end of a kept stream that receives: see Sender. One goroutine may read at a time; the other methods may be called at any
// time.
type Receiver struct {
	ctx       context.Context
	cancel    context.CancelFunc
	reconnect Reconnect

	mu       sync.Mutex
	conn     net.Conn // nil: there is none now
	count    uint64   // bytes received
	acked    uint64   // of them, as the sender was told
	skip     uint64   // bytes of conn that were received before
	deadline time.Time
	moved    chan struct{} // closed and replaced when the deadline is set
	reading  bool
	leaving  net.Conn // to be hung up when the reading is done
}

// NewReceiver begins a stream, whose connections come from reconnect. It must be closed.
func NewReceiver(reconnect Reconnect) *Receiver {
	ctx, cancel := context.WithCancel(context.Background())
	return &Receiver{ctx: ctx, cancel: cancel, reconnect: reconnect, moved: make(chan struct{})}
}

// Read implements io.Reader. Its errors are os.ErrDeadlineExceeded, after which it can be called again, and the stream's end.
func (r *Receiver) Read(p []byte) (int, error) {
	r.mu.Lock()
	r.reading = true
	r.mu.Unlock()
	defer r.endReading()
	for {
		conn, err := r.connection()
		if err != nil {
			return 0, err
		}
		n, err := conn.Read(p)
		if n = r.received(conn, p[:n]); n > 0 {
			return n, nil
		}
		switch {
		case r.ctx.Err() != nil:
			return 0, net.ErrClosed
		case errors.Is(err, os.ErrDeadlineExceeded):
			return 0, os.ErrDeadlineExceeded
		case err != nil:
			r.drop(conn)
		}
	}
}

func (r *Receiver) endReading() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reading = false
	if r.leaving != nil {
		go hangUp(r.leaving)
		r.leaving = nil
	}
}

// SetReadDeadline is as in net.Conn.
func (r *Receiver) SetReadDeadline(t time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deadline = t
	close(r.moved)
	r.moved = make(chan struct{})
	if r.conn != nil {
		return r.conn.SetReadDeadline(t)
	}
	return nil
}

// Close ends the stream and tells the sender so.
func (r *Receiver) Close() error {
	r.cancel()
	r.mu.Lock()
	defer r.mu.Unlock()
	conn := r.conn
	r.conn = nil
	switch {
	case conn == nil:
	case r.reading:
		r.leaving = conn
		_ = conn.SetReadDeadline(time.Unix(1, 0)) // wakes it; fails only on a closed connection
	default:
		go hangUp(conn)
	}
	return nil
}

// hangUp leaves the closing to the sender: not every backend of vsock delivers the last word of who closes first.
func hangUp(conn net.Conn) {
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(hangUpTimeout)); err == nil && writeAck(conn, keptOver) == nil {
		_, _ = io.Copy(io.Discard, conn) // whatever ends it
	}
}

// received counts what was read from a connection, drops what was received before, and acknowledges. It returns how many bytes are new.
func (r *Receiver) received(conn net.Conn, p []byte) (fresh int) {
	r.mu.Lock()
	if r.conn != conn {
		r.mu.Unlock()
		return 0
	}
	old := int(min(r.skip, uint64(len(p))))
	r.skip -= uint64(old)
	fresh = copy(p, p[old:])
	r.count += uint64(fresh)
	count := r.count
	due := count-r.acked >= ackInterval
	if due {
		r.acked = count
	}
	r.mu.Unlock()
	if due {
		_ = conn.SetWriteDeadline(time.Now().Add(WriteTimeout)) // fails only on a closed connection
		if writeAck(conn, count) != nil {
			r.drop(conn)
		}
	}
	return fresh
}

func writeAck(conn net.Conn, count uint64) error {
	_, err := conn.Write(binary.BigEndian.AppendUint64(nil, count))
	return err
}

// connection is the one to read from: the next one if the last is broken.
func (r *Receiver) connection() (net.Conn, error) {
	for {
		r.mu.Lock()
		conn, count, deadline, moved := r.conn, r.count, r.deadline, r.moved
		r.mu.Unlock()
		switch {
		case r.ctx.Err() != nil:
			return nil, net.ErrClosed
		case conn != nil:
			return conn, nil
		case !deadline.IsZero() && !time.Now().Before(deadline):
			return nil, os.ErrDeadlineExceeded
		}
		if err := r.next(count, deadline, moved); err != nil {
			return nil, fmt.Errorf("kept stream: %w", err)
		}
	}
}

// next gets a connection, unless the deadline passes or is moved, or the stream is closed.
func (r *Receiver) next(count uint64, deadline time.Time, moved <-chan struct{}) error {
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	if !deadline.IsZero() {
		ctx, cancel = context.WithDeadline(ctx, deadline)
		defer cancel()
	}
	go func() {
		select {
		case <-moved:
			cancel()
		case <-ctx.Done():
		}
	}()
	conn, from, err := r.reconnect(ctx, count)
	if err == nil {
		return r.attach(conn, from)
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// attach makes a connection the one to read from, which begins with that byte.
func (r *Receiver) attach(conn net.Conn, from uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil {
		return conn.Close()
	}
	if from > r.count {
		_ = conn.Close()
		return fmt.Errorf("begin at byte %d after %d: %w", from, r.count, errdefs.ErrInvalidArgument)
	}
	r.conn, r.skip, r.acked = conn, r.count-from, from
	_ = conn.SetReadDeadline(r.deadline) // fails only on a closed connection, as the next read then does
	return nil
}

func (r *Receiver) drop(conn net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn == conn {
		r.conn = nil
	}
	_ = conn.Close()
}
