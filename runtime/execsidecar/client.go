package execsidecar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/runtime/exitcode"
)

// sendTimeout is how long a server may take to read a signal: it does nothing else meanwhile.
const sendTimeout = 5 * time.Second

// startPatience is how long a command may still take to start when its client is asked to end: it may run already, and its server be about
// to say so.
const startPatience = time.Second

// errLost is what becomes of a command whose server ends before it.
var errLost = errors.New("the server is gone: what becomes of the command is not known")

// StartError says why the server did not start a command.
type StartError struct {
	Errno   unix.Errno
	Message string
}

func (e *StartError) Error() string {
	if e.Message == "" {
		return e.Errno.Error()
	}
	return e.Message
}

// Unwrap returns the error's number.
func (e *StartError) Unwrap() error { return e.Errno }

// ExitCode is the exit code of a client for what Run returned: the command's, 128+n for signal n, 127 or 126 if it could not be started,
// 125 if there was no server to do it.
func ExitCode(result Result, err error) int {
	var refused *StartError
	switch {
	case err == nil:
		return result.ExitCode()
	case !errors.As(err, &refused):
		return exitcode.Failure
	case refused.Errno == unix.ENOENT:
		return exitcode.NotFound
	default:
		return exitcode.NotExecutable
	}
}

// passedOn are the signals that a client passes on. Those that are not among them cannot be caught, are about this process's own faults, or
// are used by the Go runtime (SIGURG).
var passedOn = []os.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTRAP, unix.SIGABRT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGPIPE, unix.SIGALRM, unix.SIGTERM,
	unix.SIGCONT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGXCPU, unix.SIGXFSZ, unix.SIGVTALRM, unix.SIGPROF, unix.SIGWINCH,
	unix.SIGIO, unix.SIGPWR, unix.SIGSYS,
}

// Signals returns a channel of the signals of this process that Run is to pass on, until stop is called.
func Signals() (signals <-chan os.Signal, stop func()) {
	channel := make(chan os.Signal, len(passedOn))
	signal.Notify(channel, passedOn...)
	return channel, func() { signal.Stop(channel) }
}

// Run has the server at path run a command whose standard streams are the files, and returns how it ended. The files remain the caller's.
// Signals, which may be nil, are passed on; SIGTSTP stops this process, too. When the context ends the command is hung up on.
// A *StartError says that the command could not be started.
func Run(ctx context.Context, path string, command Command, files Files, signals <-chan os.Signal) (Result, error) {
	conn, err := dial(ctx, path)
	if err != nil {
		return Result{}, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	terminal := saveTerminal(files[0])
	if err := ask(conn, command, files); err != nil {
		return Result{}, fmt.Errorf("send the command: %w", cause(ctx, err))
	}
	result, err := attend(conn, signals)
	if err != nil && !errors.As(err, new(*StartError)) {
		terminal.restore() // the server may have changed it
		err = cause(ctx, err)
	}
	return result, err
}

// Stop asks the server at path to end.
func Stop(ctx context.Context, path string) error {
	conn, err := dial(ctx, path)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := send(conn, request{stop: true}.encode()); err != nil {
		return fmt.Errorf("stop the server: %w", err)
	}
	return nil
}

func dial(ctx context.Context, path string) (*net.UnixConn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unixpacket", path)
	if err != nil {
		return nil, fmt.Errorf("no server to be reached: %w", err)
	}
	return conn.(*net.UnixConn), nil
}

// cause is the context's end where that explains an error.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// ask sends the command with the files that there are.
func ask(conn *net.UnixConn, command Command, files Files) error {
	var sent []*os.File
	command.Streams = 0
	for i, file := range files {
		if file != nil {
			command.Streams |= 1 << i
			sent = append(sent, file)
		}
	}
	data, err := command.encode()
	if err != nil {
		return err
	}
	if err := send(conn, request{size: uint64(len(data))}.encode()); err != nil {
		return err
	}
	return send(conn, data, sent...)
}

// answer is a datagram of the server, or the error in its place.
type answer struct {
	data []byte
	err  error
}

// attend passes on signals until the command has ended. Those that come before it runs are kept for it; one that ends a program ends the
// client if the command does not start soon.
func attend(conn *net.UnixConn, signals <-chan os.Signal) (Result, error) {
	answers := make(chan answer)
	done := make(chan struct{})
	defer close(done)
	go hear(conn, answers, done)
	running := false
	var kept []unix.Signal
	var overdue <-chan time.Time // that the command starts
	var last unix.Signal         // what ends the client then
	for {
		select {
		case answer := <-answers:
			if errors.Is(answer.err, io.EOF) {
				return Result{}, errLost
			}
			if answer.err != nil {
				return Result{}, answer.err
			}
			if running {
				return decodeResult(answer.data)
			}
			started, err := decodeStarted(answer.data)
			if err != nil {
				return Result{}, err
			}
			if !started.OK {
				return Result{}, &StartError{started.Errno, started.Message}
			}
			running, overdue = true, nil
			for _, signal := range kept {
				act(conn, signal)
			}
		case caught := <-signals:
			signal := caught.(unix.Signal)
			switch {
			case running:
				act(conn, signal)
			case !slices.Contains(kept, signal):
				kept = append(kept, signal)
			}
			if !running && Ends(signal) && overdue == nil {
				overdue, last = time.After(startPatience), signal
			}
		case <-overdue:
			return Result{ResultSignaled, int32(last)}, nil
		}
	}
}

// act passes on a signal, and stops with the command.
func act(conn *net.UnixConn, signal unix.Signal) {
	passOn(conn, signal)
	if signal == unix.SIGTSTP {
		_ = unix.Kill(unix.Getpid(), unix.SIGSTOP) // always allowed
	}
}

// hear passes on the server's datagrams until it says no more.
func hear(conn *net.UnixConn, answers chan<- answer, done <-chan struct{}) {
	for {
		data, err := receive(conn, maxStarted)
		select {
		case answers <- answer{data, err}:
		case <-done:
			return
		}
		if err != nil {
			return
		}
	}
}

// Ends tells whether a signal asks a program to end.
func Ends(signal unix.Signal) bool {
	switch signal {
	case unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM:
		return true
	}
	return false
}

// passOn sends a signal to the server; those of job control are for the command's whole group. If the server hears no more, then its
// result, or its end, is on its way.
func passOn(conn *net.UnixConn, signal unix.Signal) {
	number := int32(signal)
	switch signal {
	case unix.SIGTSTP, unix.SIGCONT, unix.SIGTTIN, unix.SIGTTOU:
		number = -number
	}
	if conn.SetWriteDeadline(time.Now().Add(sendTimeout)) == nil {
		_ = send(conn, encodeSignal(number))
	}
}
