package protocol

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
)

// maxChunk is the most bytes of one chunk of a Duplex: with its length it goes into one write.
const maxChunk = MaxWrite - chunkHeader

// chunkHeader is the length of a chunk's length.
const chunkHeader = 2

// Duplex is a byte stream whose two directions end one by one, over two connections that carry one direction each and end as a
// whole. Not every backend of vsock passes a half-close; some lose what is on its way when the guest closes first, and stand still
// when one connection is full in both directions.
//
// Each direction is a row of chunks: a two-byte big endian length, at most maxChunk, and so many bytes. A chunk of no bytes is the
// direction's end. Once both have ended the host closes the connections; one that ends before was reset.
//
// One goroutine may read while another one writes; Close may be called at any time.
type Duplex struct {
	in     io.ReadCloser
	out    io.WriteCloser
	reader *bufio.Reader // of in
	left   int           // bytes of the chunk being read that were not read yet
	ended  bool          // nothing more is to be read
	chunk  []byte
	closed bool // nothing more is to be written
}

// NewDuplex makes a duplex that reads from one connection and writes to another, behind what opened them. They are the duplex's.
func NewDuplex(in io.ReadCloser, out io.WriteCloser) *Duplex {
	return &Duplex{in: in, out: out, reader: bufio.NewReaderSize(in, MaxWrite)}
}

// Read implements io.Reader. io.EOF: the other side has ended its direction. io.ErrUnexpectedEOF: the connection was reset.
func (d *Duplex) Read(p []byte) (int, error) {
	if d.ended {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	if d.left == 0 {
		if err := d.next(); err != nil {
			return 0, err
		}
	}
	n, err := d.reader.Read(p[:min(len(p), d.left)])
	d.left -= n
	if err != nil {
		return n, fmt.Errorf("read chunk: %w", noEOF(err))
	}
	return n, nil
}

// next reads the beginning of a chunk.
func (d *Duplex) next() error {
	length, err := readUint16(d.reader)
	switch {
	case err != nil:
		return fmt.Errorf("read chunk: %w", noEOF(err))
	case length > maxChunk:
		return fmt.Errorf("chunk of %d bytes, want at most %d: %w", length, maxChunk, errdefs.ErrInvalidArgument)
	case length == 0:
		d.ended = true
		return io.EOF
	}
	d.left = int(length)
	return nil
}

// errWriteClosed is the error of a write behind the direction's end.
var errWriteClosed = errors.New("write chunk: the direction has been ended")

// Write implements io.Writer.
func (d *Duplex) Write(p []byte) (int, error) {
	if d.closed {
		return 0, errWriteClosed
	}
	for written := 0; written < len(p); {
		piece := p[written:min(len(p), written+maxChunk)]
		d.chunk = binary.BigEndian.AppendUint16(d.chunk[:0], uint16(len(piece)))
		d.chunk = append(d.chunk, piece...)
		if _, err := d.out.Write(d.chunk); err != nil {
			return written, fmt.Errorf("write chunk: %w", err)
		}
		written += len(piece)
	}
	return len(p), nil
}

// CloseWrite ends the direction that is written to. To end it again does nothing.
func (d *Duplex) CloseWrite() error {
	if d.closed {
		return nil
	}
	d.closed = true
	if _, err := d.out.Write(make([]byte, chunkHeader)); err != nil {
		return fmt.Errorf("write the last chunk: %w", err)
	}
	return nil
}

// Close closes the connections. Unless both directions have ended, the other side takes it for a reset.
func (d *Duplex) Close() error { return errors.Join(d.out.Close(), d.in.Close()) }
