package protocol

import (
	"fmt"
	"io"

	"github.com/containerd/errdefs"
)

// MaxLogLine is the most bytes of one line that LogPort says. A kernel's record has at most 8 KiB, and the agent says no more than an
// error with its causes.
const MaxLogLine = 64 << 10

// WriteLogLine writes a line of the log, a JSON object without a line's end, as one stream frame.
func WriteLogLine(w *Writer, line []byte) error {
	if len(line) > MaxLogLine {
		return malformed("log line of %d bytes, want at most %d", len(line), MaxLogLine)
	}
	return w.Write(Header{Type: Stream, Opcode: StreamLog}, line)
}

// LogReader reads the lines that LogPort says.
type LogReader struct{ frames *Reader }

// NewLogReader returns a LogReader of r.
func NewLogReader(r io.Reader) *LogReader {
	frames := NewReader(r)
	frames.SetMaxPayload(MaxLogLine)
	return &LogReader{frames}
}

// Next returns the next line, which is valid until the call after it. io.EOF: there are no more.
func (l *LogReader) Next() ([]byte, error) {
	header, err := l.frames.ReadHeader()
	if err != nil {
		return nil, err
	}
	if header.Type != Stream || header.Opcode != StreamLog {
		return nil, fmt.Errorf("%v with opcode %d in a log: %w", header.Type, header.Opcode, errdefs.ErrInvalidArgument)
	}
	return l.frames.ReadPayload()
}
