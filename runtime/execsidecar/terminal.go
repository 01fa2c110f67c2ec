package execsidecar

import (
	"os"

	"golang.org/x/sys/unix"
)

// terminalState is how a terminal was set, for the time after it.
type terminalState struct {
	file     *os.File
	settings *unix.Termios // nil: it is no terminal
}

func saveTerminal(file *os.File) terminalState {
	if file == nil {
		return terminalState{}
	}
	settings, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	if err != nil {
		return terminalState{}
	}
	return terminalState{file, settings}
}

// restore sets the terminal as it was. It is left alone if it is gone, or belongs to another process group now: the kernel would have this
// one wait for it.
func (t terminalState) restore() {
	if t.settings == nil {
		return
	}
	fd := int(t.file.Fd())
	if group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP); err == nil && group == unix.Getpgrp() {
		_ = unix.IoctlSetTermios(fd, unix.TCSETS, t.settings)
	}
}
