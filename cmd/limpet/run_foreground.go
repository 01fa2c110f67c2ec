package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/limpet-run/limpet/runtime"
	"github.com/limpet-run/limpet/runtime/execsidecar"
	"github.com/limpet-run/limpet/runtime/exitcode"
	"github.com/limpet-run/limpet/runtime/standalone"
)

// insistence is after how many signals that ask it to end a command is killed: as the first process of its container it ignores those
// that it does not handle.
const insistence = 3

// passedOn are the signals that the command gets in place of limpet. There are fewer than with limpet exec (execsidecar.Signals), whose
// command stands for limpet in the shell's job control: a run's command is not stopped with limpet, which the kernel or the shell stops
// (SIGTSTP, SIGTTIN, SIGTTOU), and what else there is means limpet itself.
var passedOn = []os.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGCONT,
}

// errInterrupted ends a start.
type errInterrupted struct{ signal unix.Signal }

func (e errInterrupted) Error() string {
	return fmt.Sprintf("interrupted by %s", unix.SignalName(e.signal))
}

// runForeground runs a command with limpet's own standard streams, until it has ended.
func runForeground(c *cli.Context, options standalone.Options) (err error) {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, append(passedOn, unix.SIGWINCH)...)
	signal.Ignore(unix.SIGPIPE) // a reader that goes away is no reason to leave things behind
	defer signal.Stop(signals)

	terminal, err := enterTerminal(&options.Request)
	if err != nil {
		return runError(err)
	}
	defer terminal.leave()
	streams, err := openStandardStreams(options.Request)
	if err != nil {
		return runError(err)
	}
	options.IO = streams.io
	progress := newProgress(os.Stderr)
	options.Progress = progress.say

	// The application's context ends with the signals that the command is to get.
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(c.Context))
	defer cancel(nil)
	relay := &relay{signals: signals, interrupt: cancel, terminal: terminal}
	go relay.relay(ctx)
	run, err := standalone.Start(ctx, options)
	progress.done()
	if err != nil {
		terminal.leave()
		if interrupted, ok := errors.AsType[errInterrupted](err); ok {
			return statusError{err, exitcode.Signal + int(interrupted.signal)}
		}
		return runError(err)
	}
	relay.join(run)
	streams.lost = func() { _ = run.Signal(ctx, unix.SIGKILL) } // nobody is left to read what it writes
	streams.start()
	exit, waitErr := run.Wait(ctx)
	closeErr := run.Close(context.WithoutCancel(ctx), &exit)
	streams.wait()
	terminal.leave()
	if err := errors.Join(waitErr, closeErr); err != nil {
		return runError(err)
	}
	switch {
	case exit.Reason == "timeout":
		return statusError{fmt.Errorf("killed: it ran longer than %s", options.Request.Timeout), exit.Code}
	case exit.Reason == "vm lost":
		return statusError{errors.New("its virtual machine has ended"), exit.Code}
	}
	return statusError{nil, exit.Code}
}

// relay passes signals on to the command, once there is one; before, they end the start.
type relay struct {
	signals   <-chan os.Signal
	interrupt context.CancelCauseFunc
	terminal  *terminal

	mu  sync.Mutex
	run *standalone.Run
}

// join gives it the command.
func (r *relay) join(run *standalone.Run) {
	r.mu.Lock()
	r.run = run
	r.mu.Unlock()
	if size, ok := r.terminal.size(); ok { // it may have changed meanwhile
		_ = run.Resize(context.Background(), size)
	}
}

func (r *relay) relay(ctx context.Context) {
	asked := 0
	for {
		var received unix.Signal
		select {
		case signal := <-r.signals:
			received = signal.(syscall.Signal)
		case <-ctx.Done():
			return
		}
		r.mu.Lock()
		run := r.run
		r.mu.Unlock()
		ends := execsidecar.Ends(received)
		if ends {
			asked++
		}
		switch {
		case received == unix.SIGWINCH:
			if size, ok := r.terminal.size(); ok && run != nil {
				_ = run.Resize(ctx, size) // fails only where nothing is to be seen any more
			}
			continue
		case run == nil && ends:
			r.interrupt(errInterrupted{received})
			continue
		case run == nil:
			continue
		case asked >= insistence:
			received = unix.SIGKILL
		}
		if err := run.Signal(ctx, received); err != nil && !errdefs.IsNotFound(err) {
			fmt.Fprintln(os.Stderr, "limpet:", errorText(err))
		}
	}
}

// terminal is the user's, in raw mode as long as the command has it; nil: there is none.
type terminal struct {
	fd     int
	before *term.State // nil: it was left as it is
	once   sync.Once
}

// enterTerminal gives the command the terminal of the standard input, if it is to have one.
func enterTerminal(request *standalone.Request) (*terminal, error) {
	t := &terminal{fd: int(os.Stdin.Fd())}
	if !request.Terminal || !isTerminal(os.Stdin) {
		return nil, nil
	}
	if size, ok := t.size(); ok {
		request.Size = size
	}
	if !request.Input {
		return t, nil
	}
	var err error
	// Not by package console, whose raw mode still puts a carriage return before each end of a line.
	if t.before, err = term.MakeRaw(t.fd); err != nil {
		return nil, fmt.Errorf("set the terminal to raw mode: %w", err)
	}
	return t, nil
}

// leave gives the terminal back as it was. It may be called again.
func (t *terminal) leave() {
	if t == nil || t.before == nil {
		return
	}
	t.once.Do(func() { _ = term.Restore(t.fd, t.before) })
}

func (t *terminal) size() (standalone.Size, bool) {
	if t == nil {
		return standalone.Size{}, false
	}
	columns, rows, err := term.GetSize(t.fd)
	return standalone.Size{Columns: uint16(columns), Rows: uint16(rows)}, err == nil
}

// standardStreams joins limpet's own streams to the run's by pipes: a read or write of these ends when they are closed, one of limpet's own
// may not.
type standardStreams struct {
	io      runtime.IO
	copies  []func()
	lost    func() // called when an output cannot be written any more
	outputs sync.WaitGroup
}

func openStandardStreams(request standalone.Request) (*standardStreams, error) {
	s := &standardStreams{io: runtime.IO{Terminal: request.Terminal}}
	if request.Input {
		reader, writer, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		s.io.Stdin = reader
		s.copies = append(s.copies, func() {
			go func() { // it ends with limpet at the latest
				_, _ = io.Copy(writer, os.Stdin)
				writer.Close()
			}()
		})
	}
	sink, err := s.output(os.Stdout)
	if err != nil {
		return nil, err
	}
	s.io.Stdout = sink
	if request.Terminal {
		return s, nil
	}
	if sink, err = s.output(os.Stderr); err != nil {
		return nil, err
	}
	s.io.Stderr = sink
	return s, nil
}

func (s *standardStreams) output(destination *os.File) (io.WriteCloser, error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.copies = append(s.copies, func() {
		s.outputs.Go(func() {
			defer reader.Close()
			if _, err := io.Copy(destination, reader); err != nil {
				s.lost()
			}
		})
	})
	return writer, nil
}

// start lets the bytes flow.
func (s *standardStreams) start() {
	for _, begin := range s.copies {
		begin()
	}
}

// wait waits until all that was written has been passed on.
func (s *standardStreams) wait() { s.outputs.Wait() }
