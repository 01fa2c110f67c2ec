package protocol

import (
	"io"
	"sync"
)

// HalfCloser is a connection whose two directions end one by one: a Duplex, a net.TCPConn, a net.UnixConn.
type HalfCloser interface {
	io.ReadWriteCloser
	// CloseWrite ends the direction that is written to.
	CloseWrite() error
}

// joinBuffers are reused: each holds a chunk.
var joinBuffers = sync.Pool{New: func() any { return new([maxChunk]byte) }}

// Join copies between two streams until both directions have ended, or one has failed. An end is passed on, and the other direction
// goes on without it. After a failure, whose error it returns, both streams have been reset; else they are the caller's to close.
// Closing a stream ends Join.
func Join(a, b HalfCloser) error {
	abort := func() { Reset(a); Reset(b) }
	back := make(chan error, 1)
	go func() { back <- pass(a, b, abort) }()
	err := pass(b, a, abort)
	if other := <-back; err == nil {
		err = other
	}
	if err != nil {
		abort()
	}
	return err
}

// pass copies one direction. What cannot be read any more is reset at once, because the other direction might have nothing to write
// and never learn of it. What cannot be written any more has an end to be read, too: what it still has to say is passed on first.
func pass(to, from HalfCloser, abort func()) error {
	buffer := joinBuffers.Get().(*[maxChunk]byte)
	defer joinBuffers.Put(buffer)
	for {
		n, err := from.Read(buffer[:])
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return to.CloseWrite()
		}
		if err != nil {
			abort()
			return err
		}
	}
}

// Reset closes a stream such that the other side sees that it was cut off.
func Reset(stream HalfCloser) {
	if tcp, ok := stream.(interface{ SetLinger(seconds int) error }); ok {
		_ = tcp.SetLinger(0) // fails only on a closed connection
	}
	_ = stream.Close() // nothing more was to be said
}
