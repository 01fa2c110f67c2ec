package protocol

import (
	"encoding/binary"
	"fmt"

	"github.com/containerd/errdefs"
)

// FrameType says what a frame is for.
type FrameType uint8

// The frame types.
const (
	Command      FrameType = 0 // asks for something; answered by one Response
	Response     FrameType = 1 // answers a Command: same opcode, same call id
	Stream       FrameType = 2 // raw bytes
	Notification FrameType = 3 // says something; not answered
)

func (t FrameType) String() string {
	switch t {
	case Command:
		return "command"
	case Response:
		return "response"
	case Stream:
		return "stream"
	case Notification:
		return "notification"
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// Opcode says which command, response, stream or notification a frame is. Its meaning depends on the frame's type.
type Opcode uint8

// Header sizes in bytes. The header is counted in words of four bytes; three is the least, limpet writes five.
const (
	wordSize      = 4
	minHeaderSize = 3 * wordSize
	headerSize    = 5 * wordSize
)

// errorFlag is set in a response whose payload is an Error. typeMask is the frame type's place in the same byte.
const (
	errorFlag = 0x10
	typeMask  = 0x0f
)

// Header is what stands in front of a payload, big endian:
//
//	0       2      3          6            7        8                12        20
//	| version | words | reserved | flags|type | opcode | payload length | call id | words unknown to us |
//
// Reserved bits are zero when written and ignored when read. The call id is there if the header has five words or more.
type Header struct {
	Type   FrameType
	Error  bool
	Opcode Opcode
	Length uint32 // of the payload, in bytes
	// CallID joins a response to its command. A notification and a stream frame carry the request id of their process. 0: none.
	CallID uint64
}

// opcodeLimits is the number of opcodes of each frame type; the valid ones are those below it.
type opcodeLimits [Notification + 1]int

// append appends the header's 20 bytes to b.
func (h Header) append(b []byte) []byte {
	flags := byte(h.Type)
	if h.Error {
		flags |= errorFlag
	}
	b = binary.BigEndian.AppendUint16(b, FrameVersion)
	b = append(b, headerSize/wordSize, 0, 0, 0, flags, byte(h.Opcode))
	b = binary.BigEndian.AppendUint32(b, h.Length)
	return binary.BigEndian.AppendUint64(b, h.CallID)
}

// headerLength gives the whole header's size in bytes from its first minHeaderSize bytes, and refuses another version.
func headerLength(b []byte) (int, error) {
	if v := binary.BigEndian.Uint16(b); v != FrameVersion {
		return 0, malformed("version %d, want %d", v, FrameVersion)
	}
	size := int(b[2]) * wordSize
	if size < minHeaderSize {
		return 0, malformed("header of %d words, want at least %d", b[2], minHeaderSize/wordSize)
	}
	return size, nil
}

// parseHeader reads a header of which b has all the bytes that headerLength gave.
func parseHeader(b []byte, limits opcodeLimits, maxPayload uint32) (Header, error) {
	h := Header{
		Type:   FrameType(b[6] & typeMask),
		Error:  b[6]&errorFlag != 0,
		Opcode: Opcode(b[7]),
		Length: binary.BigEndian.Uint32(b[8:]),
	}
	if len(b) >= headerSize {
		h.CallID = binary.BigEndian.Uint64(b[12:])
	}
	if int(h.Type) >= len(limits) {
		return Header{}, malformed("unknown %v", h.Type)
	}
	if int(h.Opcode) >= limits[h.Type] {
		return Header{}, malformed("unknown opcode %d of a %v", h.Opcode, h.Type)
	}
	if h.Length > maxPayload {
		return Header{}, malformed("payload of %d bytes, want at most %d", h.Length, maxPayload)
	}
	return h, nil
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("frame: "+format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}
