package container

import (
	"io"
	"net"
	"slices"

	"github.com/limpet-run/limpet/guest/protocol"
)

const drainSize = 256 << 10

// drain copies a process's output to the host until the process and its children have closed it, and returns how many bytes the host
// was given. Without a host to take it (conn is nil, or breaks) the rest is read and dropped: a process does not hang because
// nobody listens.
func drain(output io.Reader, conn net.Conn) (sent uint64) {
	buffer := make([]byte, drainSize)
	for {
		n, err := output.Read(buffer)
		if conn != nil {
			w, werr := writePieces(conn, buffer[:n])
			sent += uint64(w)
			if werr != nil {
				conn = nil
			}
		}
		if err != nil {
			return sent // the end of a pipe is io.EOF, that of a terminal EIO
		}
	}
}

// writePieces writes in pieces that every vsock backend passes.
func writePieces(conn net.Conn, data []byte) (written int, err error) {
	for piece := range slices.Chunk(data, protocol.MaxWrite) {
		n, err := conn.Write(piece)
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// feed copies the host's input to a process until the stream ends or the process takes no more. ended tells the first from the second.
func feed(input io.Writer, conn net.Conn) (ended bool) {
	buffer := make([]byte, protocol.MaxWrite)
	for {
		n, err := conn.Read(buffer)
		if n > 0 {
			if _, werr := input.Write(buffer[:n]); werr != nil {
				return false
			}
		}
		if err != nil {
			return true
		}
	}
}

// awaitClose waits until the host has closed the stream; what it sends is not expected and dropped.
func awaitClose(conn net.Conn) {
	_, _ = io.Copy(io.Discard, conn)
}
