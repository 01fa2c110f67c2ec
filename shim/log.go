package shim

import (
	"fmt"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/runtime"
)

// logName is the FIFO in the bundle that containerd reads a shim's log from. It makes it before `start`.
const logName = "log"

// logPipe writes lines to containerd and never waits: while containerd is away the pipe fills up, and what does not fit is lost.
type logPipe struct{ descriptor int }

// openLog opens the log in the working directory for reading too, so that a containerd that goes away does not break the pipe, and makes it
// standard error, so that the trace of a crash gets there.
func openLog() (logPipe, error) {
	descriptor, err := unix.Open(logName, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return logPipe{}, fmt.Errorf("open log FIFO %s: %w", logName, err)
	}
	if err := unix.Dup3(descriptor, unix.Stderr, 0); err != nil {
		unix.Close(descriptor)
		return logPipe{}, fmt.Errorf("log to standard error: %w", err)
	}
	return logPipe{descriptor}, nil
}

// Write writes one line. It says that it did also when the line was lost, as nobody can be told.
func (p logPipe) Write(line []byte) (int, error) {
	unix.Write(p.descriptor, line)
	return len(line), nil
}

// newLogger returns a logger to containerd; without a log FIFO, as when a person runs the program, to standard error.
func newLogger(c command) *slog.Logger {
	options := &slog.HandlerOptions{Level: slog.LevelInfo}
	if c.debug {
		options.Level = slog.LevelDebug
	}
	fields := []any{"runtime", RuntimeName, "namespace", c.namespace}
	pipe, err := openLog()
	if err != nil {
		logger := slog.New(runtime.LogTraces(slog.NewTextHandler(os.Stderr, options))).With(fields...)
		logger.Warn("containerd gets no log", "error", err)
		return logger
	}
	return slog.New(runtime.LogTraces(slog.NewTextHandler(pipe, options))).With(fields...)
}
