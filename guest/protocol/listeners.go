package protocol

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
)

// MaxListeners is the most ports that the guest tells of: each may take two sockets of the host.
const MaxListeners = 256

// Listener is a TCP port that somebody in the guest listens on.
type Listener struct {
	Port     uint16 // never 0
	Loopback bool   // only at the guest's loopback addresses
}

// listenerSize is the length of an encoded Listener: two bytes of port, big endian, and one that is 1 for loopback, else 0.
const listenerSize = 3

// WriteListeners writes a list, in the order of the ports and none twice: its two-byte big endian length, and the listeners.
func WriteListeners(w io.Writer, listeners []Listener) error {
	if len(listeners) > MaxListeners {
		return fmt.Errorf("%d listeners, want at most %d: %w", len(listeners), MaxListeners, errdefs.ErrInvalidArgument)
	}
	b := binary.BigEndian.AppendUint16(nil, uint16(len(listeners)))
	for _, listener := range listeners {
		b = binary.BigEndian.AppendUint16(b, listener.Port)
		if listener.Loopback {
			b = append(b, 1)
		} else {
			b = append(b, 0)
		}
	}
	if _, err := w.Write(b); err != nil {
		return fmt.Errorf("write listeners: %w", err)
	}
	return nil
}

// ReadListeners reads what WriteListeners writes and not one byte more. io.EOF: there is no other list.
func ReadListeners(r io.Reader) ([]Listener, error) {
	length, err := readUint16(r)
	if err == io.EOF {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("read listeners: %w", err)
	}
	if length > MaxListeners {
		return nil, fmt.Errorf("%d listeners, want at most %d: %w", length, MaxListeners, errdefs.ErrInvalidArgument)
	}
	b := make([]byte, int(length)*listenerSize)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("read listeners: %w", noEOF(err))
	}
	listeners := make([]Listener, 0, length)
	for last := uint16(0); len(b) > 0; b = b[listenerSize:] {
		port := binary.BigEndian.Uint16(b)
		if port <= last || b[2] > 1 {
			return nil, fmt.Errorf("listener at port %d, of kind %d, after port %d: %w", port, b[2], last, errdefs.ErrInvalidArgument)
		}
		listeners = append(listeners, Listener{Port: port, Loopback: b[2] == 1})
		last = port
	}
	return listeners, nil
}
