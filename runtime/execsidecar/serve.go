package execsidecar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// requestTimeout is how long a client may take from its connection to its command: it sends both in one go.
	requestTimeout = 10 * time.Second
	// maxSignalNumber is SIGRTMAX.
	maxSignalNumber = 64
)

// Process is a command that runs. Its methods are safe for concurrent use.
type Process interface {
	PID() int
	// Signal sends a signal, to the process group that the process leads if group is set and it leads one. One that has ended is no
	// error.
	Signal(signal unix.Signal, group bool) error
	// HangUp sends the signal to the process group because there is no client any more.
	HangUp(signal unix.Signal) error
	// Wait returns how the process ended, once it has, and what it had of the client has been given back. It returns soon after a
	// HangUp that ends the process.
	Wait() Result
	// Close forgets the process after its end.
	Close()
}

// Files are the descriptors of a client's standard streams; nil where there is none.
type Files [maxDescriptors]*os.File

// Close closes those that there are.
func (f Files) Close() { closeFiles(f[:]) }

// Starter starts a client's command. The files are the Starter's from the call on. An error that is or wraps a unix.Errno says that to the
// client.
type Starter func(ctx context.Context, command Command, files Files) (Process, error)

// Serve serves a client that has connected: it starts the client's command, passes on its signals, and says how it ended. It returns when
// all that is over. The command does not outlive the context, nor the client if that is what its hang-up signal does. stop says that the
// client asks the server to end. The connection remains the caller's, who closes it.
func Serve(ctx context.Context, conn *net.UnixConn, start Starter, logger *slog.Logger) (stop bool, err error) {
	return serve(ctx, conn, requestTimeout, start, logger)
}

func serve(ctx context.Context, conn *net.UnixConn, patience time.Duration, start Starter, logger *slog.Logger) (stop bool, err error) {
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return false, err
	}
	command, files, stop, err := receiveCommand(conn)
	if stop || errors.Is(err, io.EOF) {
		return stop, nil
	}
	if err != nil {
		return false, errors.Join(err, refuse(conn, err))
	}
	process, err := start(ctx, command, files)
	if err != nil {
		return false, refuse(conn, err)
	}
	defer process.Close()
	defer context.AfterFunc(ctx, func() { hangUp(process, unix.SIGKILL, logger) })()
	if err := send(conn, Started{OK: true, PID: int32(process.PID())}.encode()); err != nil {
		hangUp(process, command.hangUpSignal(), logger)
	}
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		follow(conn, process, command.hangUpSignal(), logger)
	}()
	result := process.Wait()
	_ = conn.CloseRead() // ends following
	<-followed
	if err := send(conn, result.encode()); err != nil && !gone(err) {
		return false, fmt.Errorf("send a result: %w", err)
	}
	return false, nil
}

// receiveCommand receives what a client asks for. A client that leaves without a word is io.EOF.
func receiveCommand(conn *net.UnixConn) (command Command, files Files, stop bool, err error) {
	data, err := receive(conn, maxRequest)
	if err != nil {
		return command, files, false, err
	}
	request, err := decodeRequest(data)
	if err != nil || request.stop {
		return command, files, request.stop, err
	}
	data, received, err := receiveFiles(conn, int(request.size))
	if err != nil {
		return command, files, false, err
	}
	command, err = decodeCommand(data)
	if err == nil {
		files, err = place(command.Streams, received)
	}
	if err == nil {
		err = conn.SetReadDeadline(time.Time{})
	}
	if err != nil {
		closeFiles(received)
		return command, Files{}, false, err
	}
	return command, files, false, nil
}

// place gives each stream its descriptor.
func place(streams Streams, received []*os.File) (files Files, err error) {
	rest := received
	for i := range files {
		if streams&(1<<i) == 0 {
			continue
		}
		if len(rest) == 0 {
			return Files{}, fmt.Errorf("%w: streams %#x with %d descriptors", errMalformed, uint32(streams), len(received))
		}
		files[i], rest = rest[0], rest[1:]
	}
	if len(rest) > 0 {
		return Files{}, fmt.Errorf("%w: streams %#x with %d descriptors", errMalformed, uint32(streams), len(received))
	}
	return files, nil
}

// refuse tells the client why its command is not started.
func refuse(conn *net.UnixConn, why error) error {
	errno := unix.EINVAL
	if !errors.Is(why, errMalformed) && !errors.As(why, &errno) {
		errno = unix.EIO
	}
	message := why.Error()
	message = strings.ToValidUTF8(message[:min(len(message), maxMessage)], "")
	if err := send(conn, Started{Message: message, Errno: errno, PID: -1}.encode()); err != nil && !gone(err) {
		return fmt.Errorf("refuse a command: %w", err)
	}
	return nil
}

// gone tells whether an error says that the client is.
func gone(err error) bool {
	return errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, net.ErrClosed)
}

// follow passes on the client's signals until the client, or the reading, has ended; in the first case it hangs up.
func follow(conn *net.UnixConn, process Process, last unix.Signal, logger *slog.Logger) {
	for {
		data, err := receive(conn, maxSignal)
		if err != nil {
			if !errors.Is(err, io.EOF) && !gone(err) {
				logger.Warn("client hung up on", "error", err)
			}
			hangUp(process, last, logger)
			return
		}
		number, err := decodeSignal(data)
		if err != nil {
			logger.Warn("client hung up on", "error", err)
			hangUp(process, last, logger)
			return
		}
		signal, group := number, number < 0
		if group {
			signal = -number
		}
		if signal <= 0 || signal > maxSignalNumber {
			logger.Warn("a signal that there is not is not passed on", "signal", number)
			continue
		}
		if err := process.Signal(unix.Signal(signal), group); err != nil {
			logger.Warn("a signal is not passed on", "signal", number, "error", err)
		}
	}
}

// hangUp sends the last signal. A process that is stopped hears of most of them only if it goes on.
func hangUp(process Process, signal unix.Signal, logger *slog.Logger) {
	err := process.HangUp(signal)
	if signal != unix.SIGKILL {
		err = errors.Join(err, process.Signal(unix.SIGCONT, true))
	}
	if err != nil {
		logger.Warn("a command goes on without its client", "error", err)
	}
}

// hangUpSignal is the signal for when the client is gone.
func (c Command) hangUpSignal() unix.Signal {
	if c.HangUpSignal <= 0 || c.HangUpSignal > maxSignalNumber {
		return unix.SIGKILL
	}
	return unix.Signal(c.HangUpSignal)
}
