package protocol

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sync"

	"github.com/containerd/errdefs"
)

// A kept stream (StreamKept) carries bytes one way, and outlives its connections: its Sender keeps what its Receiver has not acknowledged.
//
// Both count the bytes of the stream. The host, which opens each connection, says in the preamble at which byte it begins: behind the last
// that it has received, or with the first that it keeps. Then the bytes go one way, as they are, and acknowledgements the other: eight
// bytes, big endian, with how many bytes were received in all. The last one is keptOver: nothing more is wanted.
const (
	keptOver = math.MaxUint64
	// keptWindow is the most bytes without an acknowledgement, ackInterval how many the receiver lets come before it sends one: seldom,
	// because it costs an emulated guest as much as 16 KiB of data, and early enough that the sender never waits for it. What is on its way
	// in a vsock and its sockets is half a mebibyte at most.
	keptWindow  = 1 << 20
	ackInterval = 256 << 10
	// minKept is what a sender has room for at first: most processes say little.
	minKept = 16 << 10
)

// Reconnect gives a kept stream its next connection, behind its preamble and the answer, and the byte with which it begins. The host
// begins it with the byte of that offset. An error is the stream's end.
type Reconnect func(ctx context.Context, offset uint64) (conn net.Conn, from uint64, err error)

// errKeptOver is the error of a write that the receiver does not want.
var errKeptOver = errors.New("kept stream: the receiver wants no more")

// Sender is the end of a kept stream that sends. One goroutine may write at a time; the other methods may be called at any time.
type Sender struct {
	ctx       context.Context
	cancel    context.CancelCauseFunc
	reconnect Reconnect
	piece     int           // the most bytes of one write to a connection
	writing   chan struct{} // holds one element while a connection is written to
	over      chan struct{} // closed when it is over, and nothing more is kept

	mu       sync.Mutex
	ring     []byte // byte n of the stream is at n modulo its length
	acked    uint64 // the first byte that is kept
	sent     uint64 // the first that was not given to conn
	end      uint64 // the first that was not written yet
	conn     net.Conn
	finished bool          // nothing more will be written
	changed  chan struct{} // closed and replaced when there is more room
}

// NewSender begins a stream, whose connections come from reconnect, and which gives each write at most so many bytes. It must be closed or
// finished.
func NewSender(reconnect Reconnect, piece int) *Sender {
	ctx, cancel := context.WithCancelCause(context.Background())
	s := &Sender{
		ctx: ctx, cancel: cancel, reconnect: reconnect, piece: piece,
		writing: make(chan struct{}, 1), over: make(chan struct{}), changed: make(chan struct{}),
	}
	go s.run()
	return s
}

// Write implements io.Writer. It waits while the window is full. An error is the stream's end.
func (s *Sender) Write(p []byte) (written int, err error) {
	for written < len(p) {
		room, err := s.room()
		if err != nil {
			return written, err
		}
		n := copy(room, p[written:])
		s.commit(n)
		written += n
	}
	return written, nil
}

// ReadFrom implements io.ReaderFrom: it sends what it reads from r until that ends with any error, without copying it. Its own error is
// the stream's end, before that of r.
func (s *Sender) ReadFrom(r io.Reader) (read int64, err error) {
	for {
		room, err := s.room()
		if err != nil {
			return read, err
		}
		n, err := r.Read(room)
		s.commit(n)
		read += int64(n)
		if err != nil {
			return read, nil
		}
	}
}

// Finish says that nothing more will be written. The stream ends once the receiver has everything.
func (s *Sender) Finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finished = true
}

// Over is closed when the stream has ended.
func (s *Sender) Over() <-chan struct{} { return s.over }

// Close ends the stream at once.
func (s *Sender) Close() error {
	s.cancel(net.ErrClosed)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		_ = s.conn.Close()
	}
	return nil
}

// room waits for room behind the last byte. The writer alone uses it.
func (s *Sender) room() ([]byte, error) {
	for {
		s.mu.Lock()
		if err := context.Cause(s.ctx); err != nil {
			s.mu.Unlock()
			return nil, err
		}
		kept := int(s.end - s.acked)
		if len(s.ring)-kept < len(s.ring)/2 && len(s.ring) < keptWindow || s.ring == nil {
			s.grow()
		}
		at := int(s.end % uint64(len(s.ring)))
		room := s.ring[at:min(len(s.ring), at+len(s.ring)-kept)]
		changed := s.changed
		s.mu.Unlock()
		if len(room) > 0 {
			return room, nil
		}
		select {
		case <-changed:
		case <-s.ctx.Done():
		}
	}
}

// grow doubles the ring.
func (s *Sender) grow() {
	larger := make([]byte, max(minKept, 2*len(s.ring)))
	for at := s.acked; at < s.end; {
		piece := s.kept(at, s.end)
		copy(larger[at%uint64(len(larger)):], piece)
		at += uint64(min(len(piece), len(larger)-int(at%uint64(len(larger)))))
	}
	s.ring = larger
}

// kept is a piece of what is kept, from one byte on, and before another.
func (s *Sender) kept(from, to uint64) []byte {
	at := int(from % uint64(len(s.ring)))
	return s.ring[at:min(len(s.ring), at+int(to-from))]
}

// commit takes bytes that were put into the room, and sends them if there is a connection.
func (s *Sender) commit(n int) {
	s.mu.Lock()
	s.end += uint64(n)
	s.mu.Unlock()
	s.flush()
}

// flush writes to the connection what it was not given yet. A connection that breaks is replaced by run.
func (s *Sender) flush() {
	s.writing <- struct{}{}
	defer func() { <-s.writing }()
	for {
		s.mu.Lock()
		conn, sent := s.conn, s.sent
		if conn == nil || sent == s.end || s.ring == nil {
			s.mu.Unlock()
			return
		}
		piece := s.kept(sent, min(s.end, sent+uint64(s.piece)))
		s.mu.Unlock()
		n, err := conn.Write(piece)
		s.mu.Lock()
		if s.conn == conn {
			s.sent = max(s.sent, sent+uint64(n)) // what is on its way may be acknowledged already
			if err != nil {
				s.conn = nil
				_ = conn.Close()
			}
		}
		s.mu.Unlock()
	}
}

// run has one connection after the other until the stream is over.
func (s *Sender) run() {
	err := s.serve()
	s.cancel(err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ring = nil // of which the writer may still have its room
	close(s.over)
}

func (s *Sender) serve() error {
	for {
		s.mu.Lock()
		acked := s.acked
		s.mu.Unlock()
		conn, from, err := s.reconnect(s.ctx, acked)
		if err != nil {
			return fmt.Errorf("kept stream: %w", err)
		}
		err = s.attach(conn, from)
		if err == nil {
			s.flush()
			err = s.readAcks(conn)
		}
		_ = conn.Close()
		if s.detach(conn) {
			return errKeptOver
		}
		if errors.Is(err, errKeptOver) || errdefs.IsInvalidArgument(err) || s.ctx.Err() != nil {
			return err
		}
	}
}

// attach makes a connection the one to write to, from one byte on.
func (s *Sender) attach(conn net.Conn, from uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if from < s.acked || from > s.end {
		return fmt.Errorf("kept stream: begin at byte %d, with those from %d to %d kept: %w", from, s.acked, s.end, errdefs.ErrInvalidArgument)
	}
	s.conn, s.sent = conn, from
	s.advance(from) // who asks for what follows has it
	return nil
}

// detach gives a connection up. done: the receiver has all there will be.
func (s *Sender) detach(conn net.Conn) (done bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == conn {
		s.conn = nil
	}
	return s.finished && s.acked == s.end
}

// readAcks reads acknowledgements to the connection's end, or the stream's.
func (s *Sender) readAcks(conn net.Conn) error {
	var ack [8]byte
	for {
		if _, err := io.ReadFull(conn, ack[:]); err != nil {
			return err
		}
		count := binary.BigEndian.Uint64(ack[:])
		if count == keptOver {
			return errKeptOver
		}
		s.mu.Lock()
		wrong := count < s.acked || count > s.end
		if !wrong {
			s.advance(count)
		}
		s.mu.Unlock()
		if wrong {
			return fmt.Errorf("kept stream: acknowledgement of byte %d: %w", count, errdefs.ErrInvalidArgument)
		}
	}
}

// advance forgets what is acknowledged. The caller holds mu.
func (s *Sender) advance(acked uint64) {
	s.acked, s.sent = acked, max(s.sent, acked)
	close(s.changed)
	s.changed = make(chan struct{})
}
