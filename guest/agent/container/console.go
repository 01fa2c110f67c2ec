package container

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

// newConsole opens a pseudo-terminal, of that size if there is one.
func newConsole(size *protocol.Size, open func() (*terminal, *os.File, error)) (*terminal, *os.File, error) {
	console, tty, err := open()
	if err != nil {
		return nil, nil, fmt.Errorf("open a terminal: %w", err)
	}
	if size != nil {
		if err := console.resize(*size); err != nil {
			console.Close()
			tty.Close()
			return nil, nil, fmt.Errorf("size of the terminal: %w", err)
		}
	}
	return console, tty, nil
}

// openTerminal makes a pseudo-terminal with a file in a directory. The file may be anything: it is opened so that it cannot block, and what
// is not a terminal fails at the first question.
func openTerminal(dir int, ptmx string) (*terminal, *os.File, error) {
	control, err := unix.Openat(dir, ptmx, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", ptmx, err)
	}
	if err := unix.IoctlSetPointerInt(control, unix.TIOCSPTLCK, 0); err != nil {
		unix.Close(control)
		return nil, nil, fmt.Errorf("%s: %w", ptmx, err)
	}
	tty, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(control), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		unix.Close(control)
		return nil, nil, fmt.Errorf("%s: %w", ptmx, errno)
	}
	console, err := newTerminal(control)
	if err != nil {
		unix.Close(int(tty))
		return nil, nil, err
	}
	return console, os.NewFile(tty, "tty"), nil
}
