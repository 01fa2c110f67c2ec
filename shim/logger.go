package shim

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// loggerTimeouts is how long a logging binary may take.
type loggerTimeouts struct {
	ready time.Duration // to say that it is ready; it starts, reads its arguments and opens a file
	exit  time.Duration // to write what it has read, once the streams have ended; after SIGTERM it has it once more
}

// loggerPatience is that of containerd's own shim.
var loggerPatience = loggerTimeouts{ready: 10 * time.Second, exit: 10 * time.Second}

// logger is a process that takes the output of a container: descriptors 3 and 4 are its stdout and stderr, and closing 5 or writing to it
// says that it is ready (docs/runtime-v2.md of containerd). It ends by itself when both streams have ended.
type logger struct {
	stdout, stderr *output
	gone           chan struct{} // closed when it has exited
}

// startLogger starts the binary of location and waits until it is ready.
func startLogger(location location, target target, patience loggerTimeouts) (_ *logger, err error) {
	var ours, theirs []*os.File
	defer func() {
		for _, file := range theirs {
			file.Close()
		}
		if err != nil {
			for _, file := range ours {
				file.Close()
			}
		}
	}()
	for range 2 {
		reader, writer, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		ours, theirs = append(ours, writer), append(theirs, reader)
	}
	ready, signal, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer ready.Close()
	theirs = append(theirs, signal)

	command := exec.Command(location.path, loggerArguments(location)...)
	command.Env = []string{"CONTAINER_ID=" + target.containerID, "CONTAINER_NAMESPACE=" + target.namespace}
	command.ExtraFiles = theirs
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("logging binary: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		command.Wait() // its exit code tells nothing that the container's client could use
	}()
	for _, file := range theirs {
		file.Close()
	}
	theirs = nil

	if err := awaitReady(ready, patience.ready, location.scheme == "binary-v2"); err != nil {
		command.Process.Kill()
		return nil, fmt.Errorf("logging binary %q: %w", location.path, err)
	}
	started := &logger{stdout: newOutput(ours[0], nil), stderr: newOutput(ours[1], nil), gone: gone}
	go started.finish(command.Process, patience.exit)
	return started, nil
}

// loggerArguments are the keys and first values of the URI's query, in the order of the keys.
func loggerArguments(location location) []string {
	var arguments []string
	for _, key := range slices.Sorted(maps.Keys(location.query)) {
		arguments = append(arguments, key)
		if values := location.query[key]; len(values) > 0 {
			arguments = append(arguments, values[0])
		}
	}
	return arguments
}

// awaitReady waits for a byte, or for the end of the pipe, which counts as ready unless a byte is required.
func awaitReady(ready *os.File, limit time.Duration, byteRequired bool) error {
	if err := ready.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	_, err := ready.Read(make([]byte, 1))
	switch {
	case err == nil, errors.Is(err, io.EOF) && !byteRequired:
		return nil
	case errors.Is(err, io.EOF):
		return fmt.Errorf("it ended, or closed descriptor 5, without saying that it is ready: %w", errdefs.ErrFailedPrecondition)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("it did not say on descriptor 5 within %s that it is ready: %w", limit, errdefs.ErrFailedPrecondition)
	}
	return err
}

// finish sees the process off: after the end of its streams it is given time to write, is asked to end, and is killed.
func (l *logger) finish(process *os.Process, patience time.Duration) {
	<-l.stdout.closed
	<-l.stderr.closed
	for _, end := range []os.Signal{unix.SIGTERM, unix.SIGKILL} {
		select {
		case <-l.gone:
			return
		case <-time.After(patience):
			process.Signal(end) // it may have ended meanwhile, which is what is wanted
		}
	}
}
