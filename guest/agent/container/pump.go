package container

import (
	"io"
	"slices"

	"github.com/limpet-run/limpet/guest/protocol"
)

// The buffers of the pumps, in bytes. One begins small, since most processes say little, and doubles each time that it was filled: with
// one processor each read of a full pipe costs a switch to the process and back, so a process that says much is read in large pieces.
// From 16 KiB to 1 MiB doubles the rate of an emulated guest.
const (
	minBuffer = 16 << 10
	maxBuffer = pipeSize
)

// grow returns the buffer for the next read, after one that read n bytes.
func grow(buffer []byte, n int) []byte {
	if n < len(buffer) || len(buffer) >= maxBuffer {
		return buffer
	}
	return make([]byte, 2*len(buffer))
}

// drain copies a process's output to the host until the process and its children have closed it, and returns how many bytes the host
// was given. Without a host to take it (conn is nil, or breaks) the rest is read and dropped: a process does not hang because
// nobody listens.
func drain(output io.Reader, conn io.Writer) (sent uint64) {
	if kept, ok := conn.(io.ReaderFrom); ok {
		n, err := kept.ReadFrom(output)
		if err == nil {
			return uint64(n)
		}
		sent, conn = uint64(n), nil
	}
	buffer := make([]byte, minBuffer)
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
		buffer = grow(buffer, n)
	}
}

// writePieces writes in pieces that every vsock backend passes.
func writePieces(conn io.Writer, data []byte) (written int, err error) {
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
func feed(input io.Writer, conn io.Reader) (ended bool) {
	buffer := make([]byte, minBuffer)
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
		buffer = grow(buffer, n)
	}
}
