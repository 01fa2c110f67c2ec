package requests

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

// readChunk is how many bytes of a file go into one response: each of them is in memory a few times.
const readChunk = 256 << 10

// fileRead sends a file in chunks.
func (c *conn) fileRead(ctx context.Context, r protocol.FileReadRequest) (protocol.AgentResponse, error) {
	place, err := parsePath(r.Path)
	if err != nil {
		return nil, err
	}
	file, err := openRegular(c.server.root, place)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	buffer := make([]byte, readChunk)
	for sent := uint64(0); ; {
		n, err := io.ReadFull(file, buffer)
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		sent += uint64(n)
		switch {
		case err != nil && !last:
			return nil, place.error(err)
		case sent > protocol.MaxFile:
			return nil, place.error(errTooLong)
		case last:
			return protocol.DataChunkResponse{Data: buffer[:n], Done: true}, nil
		}
		if err := c.send(protocol.DataChunkResponse{Data: buffer[:n]}); err != nil {
			return nil, err
		}
	}
}

var errTooLong = errors.New("it has more than the 4 GiB that can be sent")

// openRegular opens a file for reading, and nothing that is none: to open a device or a pipe can do something, or wait.
func openRegular(roots Roots, p place) (*os.File, error) {
	found, err := p.open(roots, false)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(int(found.Fd()), &stat); err != nil {
		return nil, p.error(err)
	}
	switch {
	case stat.Mode&unix.S_IFMT == unix.S_IFDIR:
		return nil, p.error(unix.EISDIR)
	case stat.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, p.error(errors.New("it is no regular file"))
	case stat.Size > protocol.MaxFile:
		return nil, p.error(errTooLong)
	}
	file, err := reopen(found, unix.O_RDONLY)
	if err != nil {
		return nil, p.error(err)
	}
	return file, nil
}
