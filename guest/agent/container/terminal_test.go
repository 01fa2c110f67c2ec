package container

import (
	"errors"
	"io"
	"testing"

	"golang.org/x/sys/unix"
)

// lateOutput is a terminal that tells of its end before it gives the rest.
type lateOutput struct{ reads []any }

func (l *lateOutput) Read(output []byte) (int, error) {
	if len(l.reads) == 0 {
		return 0, unix.EIO
	}
	read := l.reads[0]
	l.reads = l.reads[1:]
	if text, ok := read.(string); ok {
		return copy(output, text), nil
	}
	return 0, read.(error)
}

func TestTerminalEndsBeforeItsOutput(t *testing.T) {
	terminal := &lateOutput{[]any{"one ", unix.EIO, "two", unix.EIO}}
	read, err := io.ReadAll(readerFunc(func(output []byte) (int, error) { return readTerminal(terminal, output) }))
	if string(read) != "one two" || !errors.Is(err, unix.EIO) {
		t.Errorf("got %q, %v", read, err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(output []byte) (int, error) { return f(output) }
