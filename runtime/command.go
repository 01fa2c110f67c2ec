package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"

	"github.com/containerd/console"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/runtime/execsidecar"
)

// serveCommand runs a visitor's command in a container.
func (s *Sandbox) serveCommand(ctx context.Context, visitor *net.UnixConn) {
	stop, err := execsidecar.Serve(ctx, visitor, s.startCommand, s.log)
	switch {
	case stop:
		s.log.Warn("a visitor asks the door for commands to end: it ends with its sandbox")
	case err != nil:
		s.log.Warn("a visitor's command is not carried out", "error", err)
	}
}

// startCommand starts a command in a container, as an exec whose streams are the caller's. If these are a terminal the process gets one of
// its own, and the caller's is raw as long as it runs: what is typed is for the terminal in the guest.
func (s *Sandbox) startCommand(ctx context.Context, command execsidecar.Command, files execsidecar.Files) (execsidecar.Process, error) {
	defer files.Close()
	p := &commandProcess{log: s.log}
	p.attended, p.leave = context.WithCancel(context.Background())
	err := s.addCommand(p, command, files)
	if err == nil {
		err = p.process.Start(ctx)
	}
	if err != nil {
		p.Close()
		return nil, &execsidecar.StartError{Errno: errnoOf(err), Message: err.Error()}
	}
	return p, nil
}

// addCommand makes the process of a command.
func (s *Sandbox) addCommand(p *commandProcess, command execsidecar.Command, files execsidecar.Files) error {
	if err := checkCommand(command); err != nil {
		return err
	}
	command, containerID := splitContainer(command)
	c, err := s.commandContainer(containerID)
	if err != nil {
		return err
	}
	if execsidecar.IsTerminal(files[0]) && execsidecar.IsTerminal(files[1]) {
		if err := p.takeTerminal(files[0]); err != nil {
			return err
		}
	}
	spec := commandSpec(c.plan.Spec.Process, command)
	if p.terminal != nil {
		if spec, err = withTerminal(spec, p.terminal); err != nil {
			return err
		}
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("describe the command: %w", err)
	}
	ends, err := openEnds(files, p.terminal != nil)
	if err != nil {
		return err
	}
	id := fmt.Sprintf("limpet-%d", s.lastCommand.Add(1))
	p.process, err = c.Exec(p.attended, ExecOptions{ID: id, Spec: text, IO: ends})
	return err
}

// openEnds makes the caller's descriptors the ends of a process's streams.
func openEnds(files execsidecar.Files, terminal bool) (IO, error) {
	ends := IO{Terminal: terminal}
	if terminal {
		files[2] = nil // a terminal has one output
	}
	for i, set := range []func(execsidecar.End){
		func(end execsidecar.End) { ends.Stdin = end },
		func(end execsidecar.End) { ends.Stdout = end },
		func(end execsidecar.End) { ends.Stderr = end },
	} {
		if files[i] == nil {
			continue
		}
		end, err := execsidecar.OpenEnd(files[i])
		if err != nil {
			ends.close()
			return IO{}, err
		}
		set(end)
	}
	return ends, nil
}

// commandContainer is the container that a command is for: the named one, or the first that runs.
func (s *Sandbox) commandContainer(id string) (*Container, error) {
	if id != "" {
		return s.Container(id)
	}
	var first *Container
	for _, c := range s.list() {
		if c.made() && c.init.Status().State == StateRunning && (first == nil || c.init.request < first.init.request) {
			first = c
		}
	}
	if first == nil {
		return nil, fmt.Errorf("no container runs in sandbox %s: %w", s.id, errdefs.ErrFailedPrecondition)
	}
	return first, nil
}

// commandProcess is a command of a visitor. It implements execsidecar.Process.
type commandProcess struct {
	process  *Process // nil: there is none yet
	log      *slog.Logger
	terminal console.Console // the caller's; nil: it has none
	attended context.Context // ends when the caller is gone
	leave    context.CancelFunc
}

// takeTerminal makes the caller's terminal raw, until it is given back.
func (p *commandProcess) takeTerminal(file *os.File) error {
	end, err := execsidecar.OpenEnd(file)
	if err != nil {
		return err
	}
	terminal, err := console.ConsoleFromFile(end.(*os.File)) // what else a terminal's end could be
	if err != nil {
		return errors.Join(fmt.Errorf("the caller's terminal: %w", err), end.Close())
	}
	p.terminal = terminal
	if err := terminal.SetRaw(); err != nil {
		return fmt.Errorf("the caller's terminal: %w", err)
	}
	return nil
}

// giveBack sets the caller's terminal as it was.
func (p *commandProcess) giveBack() {
	if p.terminal == nil {
		return
	}
	if err := p.terminal.Reset(); err != nil { // most often it is gone
		p.log.Debug("a caller's terminal is not set as it was", "error", err)
	}
}

func (p *commandProcess) PID() int { return p.process.PID() }

// Signal implements execsidecar.Process. A change of the terminal's size is passed on as one. The process is alone in its session, where
// the kernel ignores SIGTSTP: SIGSTOP does what its sender means.
func (p *commandProcess) Signal(signal unix.Signal, group bool) (err error) {
	switch {
	case signal == unix.SIGWINCH && p.terminal != nil:
		err = p.fit()
	case signal == unix.SIGTSTP && p.terminal == nil:
		err = p.kill(unix.SIGSTOP, group)
	default:
		err = p.kill(signal, group)
	}
	if errdefs.IsNotFound(err) {
		return nil // it has ended
	}
	return err
}

func (p *commandProcess) kill(signal unix.Signal, group bool) error {
	if group {
		return p.process.KillGroup(context.Background(), uint32(signal))
	}
	return p.process.Kill(context.Background(), uint32(signal), false)
}

// fit gives the process's terminal the size of the caller's.
func (p *commandProcess) fit() error {
	size, err := p.terminal.Size()
	if err != nil {
		return fmt.Errorf("size of the caller's terminal: %w", err)
	}
	return p.process.Resize(context.Background(), uint32(size.Width), uint32(size.Height))
}

// HangUp implements execsidecar.Process. What was not delivered then is not waited for.
func (p *commandProcess) HangUp(signal unix.Signal) error {
	p.leave()
	return p.Signal(signal, true)
}

// Wait implements execsidecar.Process. All that the process wrote has been delivered then, unless the caller is gone.
func (p *commandProcess) Wait() execsidecar.Result {
	exit, err := p.process.Wait(context.Background()) // it ends with the machine at the latest
	if err != nil {
		p.log.Warn("the end of a command is not known", "error", err)
		return execsidecar.Result{Kind: execsidecar.ResultUnknown}
	}
	p.process.streams.drainUntil(p.attended, false)
	p.giveBack()
	return commandResult(exit)
}

// Close implements execsidecar.Process.
func (p *commandProcess) Close() {
	if p.process != nil {
		if _, err := p.process.Delete(p.attended); err != nil && !errdefs.IsNotFound(err) {
			p.log.Warn("a command is not forgotten", "error", err)
		}
	}
	p.leave()
	p.giveBack()
	if p.terminal != nil {
		_ = p.terminal.Close() // it is only our descriptor of it
	}
}
