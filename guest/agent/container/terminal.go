package container

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

// terminal is the agent's side of a process's pseudo-terminal.
type terminal struct {
	*os.File

	mu          sync.Mutex
	last        byte // the last byte of input; a newline at first: nothing is pending
	drained     bool // the input stream has ended and all of it was written
	endWanted   bool // the host asked for the end of input
	endDelivers bool // it was delivered
}

// newTerminal takes over fd, the controlling end of a pseudo-terminal.
func newTerminal(fd int) (*terminal, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("terminal: %w", err)
	}
	return &terminal{File: os.NewFile(uintptr(fd), "terminal"), last: '\n'}, nil
}

// resize tells the terminal and, with SIGWINCH, its foreground processes.
func (t *terminal) resize(size protocol.Size) error {
	return control(t.File, func(fd int) error { return setSize(fd, size) })
}

func setSize(fd int, size protocol.Size) error {
	return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Cols})
}

// Read reads output until its end, EIO.
func (t *terminal) Read(output []byte) (int, error) { return readTerminal(t.File, output) }

// readTerminal believes only the second of two ends: while a reader waits for the kernel's worker to bring what was written, the writer
// may write more and close, and then the reader is told of the end before it has got the rest (n_tty_read in the kernel).
func readTerminal(terminal io.Reader, output []byte) (int, error) {
	n, err := terminal.Read(output)
	if errors.Is(err, unix.EIO) {
		n, err = terminal.Read(output)
	}
	return n, err
}

// Write writes input.
func (t *terminal) Write(input []byte) (int, error) {
	n, err := t.File.Write(input)
	if n > 0 {
		t.mu.Lock()
		t.last = input[n-1]
		t.mu.Unlock()
	}
	return n, err
}

// inputDrained says that the input stream has ended and everything of it is written.
func (t *terminal) inputDrained() error {
	t.mu.Lock()
	t.drained = true
	t.mu.Unlock()
	return t.endInput()
}

// closeInput says that the host wants the process to see the end of its input.
func (t *terminal) closeInput() error {
	t.mu.Lock()
	t.endWanted = true
	t.mu.Unlock()
	return t.endInput()
}

// endInput types the end-of-file character, once, after all input and if the host wants it: a terminal has no other end of input. Where
// the terminal makes lines, a first one only hands over a line that is not finished. A shell that edits its lines itself takes the
// character for the same.
func (t *terminal) endInput() error {
	t.mu.Lock()
	due := t.drained && t.endWanted && !t.endDelivers
	t.endDelivers = t.endDelivers || due
	last := t.last
	t.mu.Unlock()
	if !due {
		return nil
	}
	var settings *unix.Termios
	err := control(t.File, func(fd int) (err error) {
		settings, err = unix.IoctlGetTermios(fd, unix.TCGETS)
		return err
	})
	if err != nil {
		return err
	}
	end := []byte{settings.Cc[unix.VEOF]}
	if settings.Lflag&unix.ICANON != 0 && last != '\n' && last != '\r' {
		end = append(end, end[0])
	}
	_, err = t.File.Write(end)
	return err
}

// control calls f with the file's descriptor while the file cannot be closed.
func control(file *os.File, f func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	if err := raw.Control(func(fd uintptr) { result = f(int(fd)) }); err != nil {
		return err
	}
	return result
}
