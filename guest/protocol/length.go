package protocol

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// lengthSize is the size in bytes of the length in front of a machine request or response.
const lengthSize = 4

// The ways in which a message with a length in front can be wrong.
var (
	ErrShortLength       = errors.New("the length is cut short")
	ErrIncompleteMessage = errors.New("the message is cut short")
)

// MessageTooLargeError is a length of more than MaxPayload. The bytes that it announces have not been read.
type MessageTooLargeError struct{ Size uint32 }

func (e *MessageTooLargeError) Error() string {
	return fmt.Sprintf("message of %d bytes, want at most %d", e.Size, MaxPayload)
}

// WriteMessage writes the length of a machine request or response, four bytes big endian, and its JSON.
func WriteMessage(w io.Writer, message []byte) error {
	if len(message) > MaxPayload {
		return &MessageTooLargeError{Size: uint32(len(message))}
	}
	framed := binary.BigEndian.AppendUint32(make([]byte, 0, lengthSize+len(message)), uint32(len(message)))
	framed = append(framed, message...)
	for part := range slices.Chunk(framed, MaxWrite) {
		if _, err := w.Write(part); err != nil {
			return fmt.Errorf("write message: %w", err)
		}
	}
	return nil
}

// ReadMessage reads what WriteMessage writes and not one byte more. At the end of the stream between two messages it returns io.EOF.
func ReadMessage(r io.Reader) ([]byte, error) {
	var length [lengthSize]byte
	switch _, err := io.ReadFull(r, length[:]); err {
	case nil:
	case io.EOF:
		return nil, err
	case io.ErrUnexpectedEOF:
		return nil, ErrShortLength
	default:
		return nil, fmt.Errorf("read message: %w", err)
	}
	size := binary.BigEndian.Uint32(length[:])
	if size > MaxPayload {
		return nil, &MessageTooLargeError{Size: size}
	}
	message, err := readGrowing(r, nil, int(size))
	if noEOF(err) == io.ErrUnexpectedEOF {
		return nil, fmt.Errorf("%w: %d of %d bytes", ErrIncompleteMessage, len(message), size)
	}
	if err != nil {
		return nil, fmt.Errorf("read message: %w", err)
	}
	return message, nil
}

// emptyOutputs is how a CompletedResponse without output ends.
const emptyOutputs = `"stdout":"","stderr":""}`

// WriteCompleted writes what WriteMessage would write of a CompletedResponse and its trace id, without the memory for the output's base64.
func WriteCompleted(w io.Writer, traceID *string, result CompletedResponse) error {
	head, err := AgentResponses.EncodeEnvelope(Envelope[AgentResponse]{TraceID: traceID, Body: CompletedResponse{ExitCode: result.ExitCode}})
	if err != nil {
		return err
	}
	head, found := bytes.CutSuffix(head, []byte(emptyOutputs))
	if !found {
		return fmt.Errorf("write message: a completed response does not end in its outputs: %s", head)
	}
	encoding := base64.StdEncoding
	size := len(head) + len(emptyOutputs) + encoding.EncodedLen(len(result.Stdout)) + encoding.EncodedLen(len(result.Stderr))
	if size > MaxPayload {
		return &MessageTooLargeError{Size: uint32(size)}
	}
	buffered := bufio.NewWriterSize(w, MaxWrite) // every piece that is written to it is smaller
	_, _ = buffered.Write(binary.BigEndian.AppendUint32(nil, uint32(size)))
	_, _ = buffered.Write(head)
	outputs := base64.NewEncoder(encoding, buffered)
	_, _ = buffered.WriteString(`"stdout":"`)
	_, _ = outputs.Write(result.Stdout)
	_ = outputs.Close()
	_, _ = buffered.WriteString(`","stderr":"`)
	outputs = base64.NewEncoder(encoding, buffered)
	_, _ = outputs.Write(result.Stderr)
	_ = outputs.Close()
	_, _ = buffered.WriteString(`"}`)
	if err := buffered.Flush(); err != nil { // which remembers the first error
		return fmt.Errorf("write message: %w", err)
	}
	return nil
}
