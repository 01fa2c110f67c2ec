package protocol

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
)

const (
	// payloadStep is the first piece of a payload that is allocated: more than nearly all payloads have.
	payloadStep = 64 << 10
	// payloadKeep is the largest payload buffer that is kept for the next frame.
	payloadKeep = 1 << 20
)

// Reader reads frames. It is for one goroutine.
type Reader struct {
	buffered   *bufio.Reader
	limits     opcodeLimits
	maxPayload uint32
	pending    uint32 // bytes of the payload that follows
	payload    []byte
}

// NewReader returns a Reader of r that refuses payloads of more than MaxPayloadBeforeAuth bytes until SetMaxPayload.
func NewReader(r io.Reader) *Reader { return newReader(r, opcodes) }

func newReader(r io.Reader, limits opcodeLimits) *Reader {
	return &Reader{buffered: bufio.NewReaderSize(r, MaxWrite), limits: limits, maxPayload: MaxPayloadBeforeAuth}
}

// SetMaxPayload sets the largest payload, in bytes, that is not refused.
func (r *Reader) SetMaxPayload(n uint32) { r.maxPayload = n }

// ReadHeader reads the next frame's header. It returns io.EOF at the end of the stream between two frames and
// io.ErrUnexpectedEOF within a header. After a timeout of the underlying connection it can be called again and loses nothing;
// after any other error the stream is unusable. The payload must be read before the next header.
func (r *Reader) ReadHeader() (Header, error) {
	if r.pending > 0 {
		return Header{}, errors.New("frame: the last frame's payload has not been read")
	}
	start, err := r.peek(minHeaderSize)
	if err != nil {
		return Header{}, err
	}
	size, err := headerLength(start)
	if err != nil {
		return Header{}, err
	}
	whole, err := r.peek(size)
	if err != nil {
		return Header{}, err
	}
	header, err := parseHeader(whole, r.limits, r.maxPayload)
	if err != nil {
		return Header{}, err
	}
	if _, err := r.buffered.Discard(size); err != nil {
		return Header{}, err
	}
	r.pending = header.Length
	return header, nil
}

// ReadPayload reads the payload that belongs to the header last read. The bytes are valid until the next call.
func (r *Reader) ReadPayload() ([]byte, error) {
	size := int(r.pending)
	r.pending = 0
	if cap(r.payload) > payloadKeep {
		r.payload = nil
	}
	payload, err := readGrowing(r.buffered, r.payload, size)
	if err != nil {
		return nil, fmt.Errorf("frame: payload of %d bytes: %w", size, noEOF(err))
	}
	r.payload = payload
	return payload, nil
}

// readGrowing reads size bytes into a buffer, whose space it uses, and which it makes larger only as the bytes arrive: a length
// that lies costs no more than payloadStep. With an error it returns what was read.
func readGrowing(r io.Reader, buffer []byte, size int) ([]byte, error) {
	read := buffer[:0]
	for len(read) < size {
		have := len(read)
		want := min(size, max(cap(read), payloadStep, 2*have))
		read = slices.Grow(read, want-have)[:want]
		if n, err := io.ReadFull(r, read[have:]); err != nil {
			return read[:have+n], err
		}
	}
	return read, nil
}

// peek returns the next n bytes without taking them.
func (r *Reader) peek(n int) ([]byte, error) {
	b, err := r.buffered.Peek(n)
	if err == nil {
		return b, nil
	}
	if len(b) > 0 {
		err = noEOF(err)
	}
	if err == io.EOF {
		return nil, err
	}
	return nil, fmt.Errorf("frame: header: %w", err)
}

// noEOF turns an end of stream into an unexpected one.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Writer writes frames. It is for one goroutine and allocates nothing per frame.
type Writer struct {
	w     io.Writer
	start []byte // a frame's first write: header and the payload's beginning
}

// NewWriter returns a Writer to w, to which it gives at most MaxWrite bytes at a time.
func NewWriter(w io.Writer) *Writer {
	return &Writer{w: w, start: make([]byte, 0, MaxWrite)}
}

// Write writes one frame. The header's Length is set from the payload. After an error the stream is unusable.
func (w *Writer) Write(header Header, payload []byte) error {
	if len(payload) > MaxPayload {
		return malformed("payload of %d bytes, want at most %d", len(payload), MaxPayload)
	}
	header.Length = uint32(len(payload))
	start := header.append(w.start)
	n := min(len(payload), MaxWrite-len(start))
	start = append(start, payload[:n]...)
	if _, err := w.w.Write(start); err != nil {
		return fmt.Errorf("frame: write: %w", err)
	}
	for rest := range slices.Chunk(payload[n:], MaxWrite) {
		if _, err := w.w.Write(rest); err != nil {
			return fmt.Errorf("frame: write: %w", err)
		}
	}
	return nil
}
