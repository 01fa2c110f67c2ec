package agent

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/agent/container"
	"github.com/limpet-run/limpet/guest/protocol"
)

// commandTimeout bounds what a command waits for, for the sake of the goroutine: the host gives up earlier. The longest wait is
// that of a start under emulation with many others.
const commandTimeout = 2 * time.Minute

// command carries out one message of the host. Those that never wait are carried out at once, and so in the order in which they were sent,
// the others each on their own.
func (a *Agent) command(s *session, conn *protocol.GuestConn, incoming protocol.Incoming[protocol.HostMessage]) {
	if incoming.Type != protocol.Command {
		a.logger.Warn("message ignored", "type", incoming.Type.String(), "message", protocol.HostMessages.Name(incoming.Message))
		return
	}
	r := request{conn, incoming}
	if err := s.allows(a.own, incoming.Message); err != nil {
		r.write(answer{err: err})
		return
	}
	ctx := protocol.WithTraceID(context.Background(), incoming.TraceID)
	began := time.Now()
	if result, done := a.immediate(s, incoming.Message); done {
		a.note(ctx, incoming.Message, began, result)
		r.write(result)
		return
	}
	ctx, cancel := context.WithCancelCause(ctx)
	fresh, known := s.answers.begin(r, cancel)
	_, signal := incoming.Message.(protocol.Signal)
	switch {
	case fresh && signal: // never waits, and a TERM comes before the KILL that follows it
		a.carryOut(ctx, s, incoming)
	case fresh:
		go a.carryOut(ctx, s, incoming)
	case known != nil:
		r.write(*known)
	}
}

// immediate carries out a command that never waits and may be done twice. It is not recorded.
func (a *Agent) immediate(s *session, message protocol.HostMessage) (result answer, done bool) {
	result.message = protocol.OK{}
	switch m := message.(type) {
	case protocol.Ack:
		s.outbox.acknowledge(m.Sequence)
	case protocol.Cancel:
		result.err = s.answers.cancel(m.CallID)
	case protocol.Data:
		a.data.answer(m)
	case protocol.Resize:
		result.err = a.containers.Resize(m)
	case protocol.CloseStdin:
		result.err = a.containers.CloseStdin(m)
	case protocol.SetClock:
		result.err = a.options.Machine.SetClock(m.UnixNano)
	case protocol.Reseed:
		result.err = a.options.Machine.Reseed(m.Entropy)
	case protocol.ListPids:
		result.message, result.err = a.containers.Pids(m)
	case protocol.Stats:
		result.message, result.err = a.containers.Stats(m)
	default:
		return answer{}, false
	}
	return result, true
}

// carryOut carries out a command that may wait or that must not be done twice, and answers it.
func (a *Agent) carryOut(ctx context.Context, s *session, incoming protocol.Incoming[protocol.HostMessage]) {
	began := time.Now()
	var result answer
	after := func() {}
	if m, ok := incoming.Message.(protocol.Wait); ok { // for as long as it takes
		result.message, result.err = a.processes.wait(ctx, m.RequestID)
	} else {
		result, after = a.carryOutSoon(ctx, s, incoming)
	}
	if result.err != nil && context.Cause(ctx) == errCancelled {
		result.err = &protocol.Error{Message: errCancelled.Error() + ": " + result.err.Error(), Code: protocol.CodeCancelled}
	}
	a.note(ctx, incoming.Message, began, result)
	s.answers.end(incoming.CallID, result).write(result)
	after()
}

// carryOutSoon carries out a command within commandTimeout, and tells the host meanwhile that it goes on. after follows its answer.
func (a *Agent) carryOutSoon(ctx context.Context, s *session, incoming protocol.Incoming[protocol.HostMessage]) (
	result answer, after func()) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	defer s.tellProgress(incoming)()
	switch m := incoming.Message.(type) {
	case protocol.Run:
		return a.started(s)(a.containers.Run(ctx, m))
	case protocol.Exec:
		return a.started(s)(a.containers.Exec(ctx, m))
	case protocol.Stop:
		return a.stop(ctx, m)
	}
	return a.ordinary(ctx, incoming.Message), func() {}
}

// tellProgress tells the host, from time to time until the end, that a command is under way.
func (s *session) tellProgress(incoming protocol.Incoming[protocol.HostMessage]) (end func()) {
	began := time.Now()
	pause := time.NewTicker(protocol.ProgressInterval)
	ended := make(chan struct{})
	go func() {
		for {
			select {
			case <-pause.C:
				s.outbox.addEvent(protocol.Progress{
					CallID:  incoming.CallID,
					Message: fmt.Sprintf("%s: under way for %v", protocol.HostMessages.Name(incoming.Message), time.Since(began).Round(time.Second)),
				})
			case <-ended:
				return
			}
		}
	}()
	return func() {
		pause.Stop()
		close(ended)
	}
}

// note logs a command that was carried out. Acknowledgements would be half of the log.
func (a *Agent) note(ctx context.Context, message protocol.HostMessage, began time.Time, result answer) {
	if _, ok := message.(protocol.Ack); ok {
		return
	}
	attributes := []slog.Attr{
		slog.String("command", protocol.HostMessages.Name(message)), slog.Duration("took", time.Since(began)),
	}
	if result.err != nil {
		attributes = append(attributes, slog.String("error", result.err.Error()))
	}
	a.logger.LogAttrs(ctx, slog.LevelDebug, "command carried out", attributes...)
}

// ordinary carries out a command after which there is nothing more to do.
func (a *Agent) ordinary(ctx context.Context, message protocol.HostMessage) answer {
	switch m := message.(type) {
	case protocol.Pod:
		return done(a.containers.MakePod(ctx, m))
	case protocol.Prepare:
		return done(a.containers.Prepare(ctx, m))
	case protocol.Remove:
		a.options.SSHAgent.Forget(m.ContainerID)
		return done(a.containers.Remove(m))
	case protocol.Signal:
		return done(a.containers.Signal(m))
	case protocol.Pause:
		return done(a.containers.Pause(ctx, m))
	case protocol.Resume:
		return done(a.containers.Resume(ctx, m))
	case protocol.Network:
		return done(a.options.Machine.ConfigureNetwork(ctx, m))
	case protocol.Update:
		return done(a.containers.Update(ctx, m))
	case protocol.Plug:
		return a.plug(ctx, m)
	case protocol.Unplug:
		return done(a.options.Machine.Eject(m.MAC))
	case protocol.Mount:
		return done(a.options.Volumes.Mount(m))
	case protocol.Unmount:
		return done(a.options.Volumes.Unmount(m))
	case protocol.SSHAgent:
		return done(a.options.SSHAgent.Offer(m))
	case protocol.Resolver:
		return done(a.options.Resolver.Resolve(m))
	}
	return answer{err: fmt.Errorf("command %s: %w", protocol.HostMessages.Name(message), errdefs.ErrNotImplemented)}
}

// plug puts to use what was plugged into the machine.
func (a *Agent) plug(ctx context.Context, m protocol.Plug) answer {
	switch m.Device {
	case protocol.PlugProcessors:
		return done(a.options.Machine.UseProcessors(m.Amount))
	case protocol.PlugMemory:
		return done(a.options.Machine.AwaitMemory(ctx, m.Amount))
	case protocol.PlugDisk:
		device, err := a.options.Machine.AwaitDisk(ctx, m.Serial)
		return answer{device, err}
	}
	return done(fmt.Errorf("plug %q: %w", m.Device, errdefs.ErrNotImplemented))
}

func done(err error) answer { return answer{protocol.OK{}, err} }

// started makes a new process's answer; when that is sent, the host may hear of the process's end.
func (a *Agent) started(s *session) func(*container.Process, error) (answer, func()) {
	return func(p *container.Process, err error) (answer, func()) {
		if err != nil {
			return answer{err: err}, func() {}
		}
		a.processes.started(p.RequestID(), s)
		return answer{message: protocol.Started{RequestID: p.RequestID()}}, p.Announce
	}
}
