package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/containerd/errdefs"
)

// StreamKind says what a byte stream is joined to.
type StreamKind uint8

// The kinds of byte streams.
const (
	StreamContainerd StreamKind = 0    // containerd's socket; not answered
	StreamOutput     StreamKind = 1    // a FIFO, whose path is the answer: see WriteOutputPath
	StreamProcess    StreamKind = 0x40 // a process's standard stream, named by Token; answered by a status
	StreamTCP        StreamKind = 0x41 // a TCP connection to Port on the guest's loopback; answered by a status; a Duplex
	StreamUnix       StreamKind = 0x42 // a unix socket in the guest at Path; answered by a status; a Duplex
	StreamListeners  StreamKind = 0x43 // the guest's TCP listeners; answered by a status, then a list (WriteListeners) after each change
	// What goes over StreamContainerd and StreamOutput, as a Duplex; answered by a status. It is how the host reaches them in a guest whose
	// vsock can do less than a socket.
	StreamContainerdDuplex StreamKind = 0x44
	StreamOutputDuplex     StreamKind = 0x45
	StreamKept             StreamKind = 0x46 // a process's standard stream, by Token, from byte Offset on; answered by a status; see Sender
)

// magic is what every byte stream begins with: nothing that speaks HTTP can be made to say it.
const magic = "danger noodle"

// The status that answers a preamble is statusOK, or statusFailed, a two-byte big endian length, and a message of so many bytes.
const (
	statusOK     = 0
	statusFailed = 1
)

// Preamble is how a byte stream is opened: magic, kind, and what the kind needs. After it, and after its answer, the connection
// is a plain pipe. Where it is one half of a Duplex, it is the one that the host reads: the host begins it with a token, by which it
// opens the other half as StreamProcess.
type Preamble struct {
	Kind   StreamKind
	Token  Token  // StreamProcess, StreamKept: 32 bytes
	Offset uint64 // StreamKept: eight bytes, big endian
	Port   uint16 // StreamTCP: two bytes, big endian
	Path   string // StreamUnix: a two-byte big endian length, then the path; never empty
}

// WritePreamble writes the preamble at once.
func WritePreamble(w io.Writer, p Preamble) error {
	b := append([]byte(magic), byte(p.Kind))
	switch p.Kind {
	case StreamContainerd, StreamOutput, StreamListeners, StreamContainerdDuplex, StreamOutputDuplex:
	case StreamProcess:
		b = append(b, p.Token[:]...)
	case StreamKept:
		b = append(b, p.Token[:]...)
		b = binary.BigEndian.AppendUint64(b, p.Offset)
	case StreamTCP:
		b = binary.BigEndian.AppendUint16(b, p.Port)
	case StreamUnix:
		if p.Path == "" || len(p.Path) > math.MaxUint16 {
			return fmt.Errorf("stream path of %d bytes, want 1 to %d: %w", len(p.Path), math.MaxUint16, errdefs.ErrInvalidArgument)
		}
		b = binary.BigEndian.AppendUint16(b, uint16(len(p.Path)))
		b = append(b, p.Path...)
	default:
		return unknownKind(p.Kind)
	}
	if _, err := w.Write(b); err != nil {
		return fmt.Errorf("write stream preamble: %w", err)
	}
	return nil
}

// ReadPreamble reads a preamble and not one byte more. A connection whose preamble is wrong is closed without an answer.
func ReadPreamble(r io.Reader) (Preamble, error) {
	p, err := readPreamble(r)
	if err != nil {
		return Preamble{}, fmt.Errorf("read stream preamble: %w", noEOF(err))
	}
	return p, nil
}

func readPreamble(r io.Reader) (p Preamble, err error) {
	var start [len(magic) + 1]byte
	if _, err := io.ReadFull(r, start[:]); err != nil {
		return p, err
	}
	if string(start[:len(magic)]) != magic {
		return p, fmt.Errorf("it does not begin with %q: %w", magic, errdefs.ErrInvalidArgument)
	}
	p.Kind = StreamKind(start[len(magic)])
	switch p.Kind {
	case StreamContainerd, StreamOutput, StreamListeners, StreamContainerdDuplex, StreamOutputDuplex:
	case StreamProcess:
		_, err = io.ReadFull(r, p.Token[:])
	case StreamKept:
		var offset [8]byte
		if _, err = io.ReadFull(r, p.Token[:]); err == nil {
			_, err = io.ReadFull(r, offset[:])
		}
		p.Offset = binary.BigEndian.Uint64(offset[:])
	case StreamTCP:
		p.Port, err = readUint16(r)
	case StreamUnix:
		p.Path, err = readText(r)
		if err == nil && p.Path == "" {
			err = fmt.Errorf("path is empty: %w", errdefs.ErrInvalidArgument)
		}
	default:
		err = unknownKind(p.Kind)
	}
	return p, err
}

func unknownKind(kind StreamKind) error {
	return fmt.Errorf("unknown stream kind %#x: %w", uint8(kind), errdefs.ErrInvalidArgument)
}

// WriteStatus answers a preamble: with nil the stream begins, with an error the connection is to be closed.
func WriteStatus(w io.Writer, failure error) error {
	b := []byte{statusOK}
	if failure != nil {
		message := NewError(failure).Message
		b = binary.BigEndian.AppendUint16([]byte{statusFailed}, uint16(len(message)))
		b = append(b, message...)
	}
	if _, err := w.Write(b); err != nil {
		return fmt.Errorf("write stream status: %w", err)
	}
	return nil
}

// ErrStreamRefused is the kind of error that ReadStatus returns if the other side said no.
var ErrStreamRefused = errors.New("stream refused")

// ReadStatus reads the answer to a preamble and not one byte more.
func ReadStatus(r io.Reader) error {
	var status [1]byte
	if _, err := io.ReadFull(r, status[:]); err != nil {
		return fmt.Errorf("read stream status: %w", noEOF(err))
	}
	switch status[0] {
	case statusOK:
		return nil
	case statusFailed:
		message, err := readText(r)
		if err != nil {
			return fmt.Errorf("read stream status: %w", noEOF(err))
		}
		return fmt.Errorf("%w: %s", ErrStreamRefused, truncate(message, maxErrorMessage))
	}
	return fmt.Errorf("unknown stream status %d: %w", status[0], errdefs.ErrInvalidArgument)
}

// WriteOutputPath answers a preamble of kind StreamOutput: one byte of length, then the FIFO's path in the container.
func WriteOutputPath(w io.Writer, path string) error {
	if len(path) > math.MaxUint8 {
		return fmt.Errorf("output path of %d bytes, want at most %d: %w", len(path), math.MaxUint8, errdefs.ErrInvalidArgument)
	}
	if _, err := w.Write(append([]byte{byte(len(path))}, path...)); err != nil {
		return fmt.Errorf("write output path: %w", err)
	}
	return nil
}

// ReadOutputPath reads what WriteOutputPath writes and not one byte more.
func ReadOutputPath(r io.Reader) (string, error) {
	var length [1]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return "", fmt.Errorf("read output path: %w", noEOF(err))
	}
	path := make([]byte, length[0])
	if _, err := io.ReadFull(r, path); err != nil {
		return "", fmt.Errorf("read output path: %w", noEOF(err))
	}
	return string(path), nil
}

func readUint16(r io.Reader) (uint16, error) {
	var b [2]byte
	_, err := io.ReadFull(r, b[:])
	return binary.BigEndian.Uint16(b[:]), err
}

// readText reads a two-byte big endian length and so many bytes.
func readText(r io.Reader) (string, error) {
	length, err := readUint16(r)
	if err != nil {
		return "", err
	}
	text := make([]byte, length)
	_, err = io.ReadFull(r, text)
	return string(text), err
}
