package streamsidecar

import (
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

// join carries both directions, each to its own end.
func join(visitor Visitor, stream protocol.HalfCloser) error { return protocol.Join(visitor, stream) }

// exchange carries both directions until one of them ends: the stream knows no half of an end.
func exchange(visitor Visitor, stream net.Conn) error {
	ends := make(chan error, 2)
	go func() { ends <- pass(stream, visitor) }()
	go func() { ends <- pass(visitor, stream) }()
	err := <-ends
	_ = stream.Close()
	_ = visitor.Close()
	<-ends
	return err
}

// pour carries what there is to read to a visitor, until its end or until the visitor has gone: one who has only nothing more to say stays.
func pour(visitor Visitor, source io.ReadCloser) error {
	gone := make(chan struct{})
	go func() {
		awaitGone(visitor)
		close(gone)
		_ = source.Close() // ends the copy
	}()
	err := pass(visitor, source)
	select {
	case <-gone:
		err = nil // of closing the source
	default:
	}
	_ = source.Close()  // before the visitor sees the end, so that he finds nothing left of it
	_ = visitor.Close() // ends the watch
	<-gone
	return err
}

// pass copies one direction, in pieces that every stream takes.
func pass(to io.Writer, from io.Reader) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, protocol.MaxWrite))
	return err
}

// watched is a connection of which it can be seen that the other side has gone.
type watched interface {
	SyscallConn() (syscall.RawConn, error)
}

// awaitGone waits until the other side of a connection has closed it as a whole, or the connection is closed here. What the other side
// says meanwhile is dropped. Over TCP one who has closed the connection is found out by the first keep-alive that is answered by a reset.
func awaitGone(conn watched) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return // it is closed
	}
	// It fails when the connection is closed, which is as good as an answer.
	_ = raw.Read(func(fd uintptr) bool { return drain(int(fd)) })
}

// drain reads what there is, and tells whether the other side has gone.
func drain(fd int) (gone bool) {
	var scrap [512]byte
	for {
		n, err := unix.Read(fd, scrap[:])
		if err == unix.EINTR || n > 0 {
			continue
		}
		if err != nil && err != unix.EAGAIN {
			return true
		}
		break
	}
	state := []unix.PollFd{{Fd: int32(fd)}}
	for {
		_, err := unix.Poll(state, 0)
		if err != unix.EINTR {
			return err != nil || state[0].Revents != 0 // errors and the end as a whole are always told
		}
	}
}
