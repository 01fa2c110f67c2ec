package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// kernelLog gives a record with each read: what the kernel keeps, and then what comes.
	kernelLog = "/dev/kmsg"
	// maxRecord is more than the kernel has in one (CONSOLE_EXT_LOG_MAX).
	maxRecord = 16 << 10
)

// OpenKernel opens the kernel's log from its beginning. Its Close ends a Read that waits.
func OpenKernel() (io.ReadCloser, error) {
	fd, err := unix.Open(kernelLog, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the kernel's log %s: %w", kernelLog, err)
	}
	return os.NewFile(uintptr(fd), kernelLog), nil
}

// tellKernel tells the kernel's log until it, or the reader, is gone.
func tellKernel(log io.Reader, to slog.Handler) {
	booted := bootTime()
	record := make([]byte, maxRecord)
	for expected := uint64(0); ; {
		n, err := log.Read(record)
		if errors.Is(err, unix.EPIPE) {
			continue // records were lost: their numbers are missing
		}
		if err != nil {
			return
		}
		line, ok := parseRecord(record[:n])
		if !ok {
			continue
		}
		if line.sequence > expected && tellLost(context.Background(), to, line.sequence-expected) != nil {
			return
		}
		expected = line.sequence + 1
		if to.Handle(context.Background(), slog.NewRecord(booted.Add(line.since), line.level, line.text, 0)) != nil {
			return
		}
	}
}

// bootTime is the time at which the kernel's clock began.
func bootTime() time.Time {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return time.Time{} // never: see clock_gettime(2)
	}
	return time.Now().Add(-time.Duration(now.Nano()))
}

// kernelLine is a record of the kernel's log.
type kernelLine struct {
	level    slog.Level
	sequence uint64
	since    time.Duration // the machine's start
	text     string
}

// parseRecord reads a record: "priority,sequence,microseconds,flags;text", and then lines that begin with a space. See the kernel's
// Documentation/ABI/testing/dev-kmsg.
func parseRecord(record []byte) (line kernelLine, ok bool) {
	head, rest, ok := bytes.Cut(record, []byte{';'})
	if !ok {
		return line, false
	}
	fields := bytes.Split(head, []byte{','})
	if len(fields) < 3 {
		return line, false
	}
	var numbers [3]uint64
	for i := range numbers {
		number, err := strconv.ParseUint(string(fields[i]), 10, 63)
		if err != nil {
			return line, false
		}
		numbers[i] = number
	}
	text, _, _ := bytes.Cut(rest, []byte{'\n'})
	const maxMicroseconds = uint64(1<<63-1) / uint64(time.Microsecond)
	return kernelLine{
		level: levelOf(numbers[0] & 7), sequence: numbers[1],
		since: time.Duration(min(numbers[2], maxMicroseconds)) * time.Microsecond, text: string(text),
	}, true
}

// levelOf is what the kernel's levels come to: 0 to 3 are errors, 4 is a warning, 7 is for who debugs.
func levelOf(priority uint64) slog.Level {
	switch {
	case priority <= 3:
		return slog.LevelError
	case priority == 4:
		return slog.LevelWarn
	case priority == 7:
		return slog.LevelDebug
	}
	return slog.LevelInfo
}
