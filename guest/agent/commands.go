package agent

import (
	"context"
	"fmt"
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
func (a *Agent) command(conn *protocol.GuestConn, incoming protocol.Incoming[protocol.HostMessage]) {
	if incoming.Type != protocol.Command {
		a.logger.Warn("message ignored", "type", incoming.Type.String(), "message", protocol.HostMessages.Name(incoming.Message))
		return
	}
	r := request{conn, incoming}
	if result, done := a.immediate(incoming.Message); done {
		r.write(result)
		return
	}
	fresh, known := a.answers.begin(r)
	_, signal := incoming.Message.(protocol.Signal)
	switch {
	case fresh && signal: // never waits, and a TERM comes before the KILL that follows it
		a.carryOut(incoming.CallID, incoming.Message)
	case fresh:
		go a.carryOut(incoming.CallID, incoming.Message)
	case known != nil:
		r.write(*known)
	}
}

// immediate carries out a command that never waits and may be done twice. It is not recorded.
func (a *Agent) immediate(message protocol.HostMessage) (result answer, done bool) {
	result.message = protocol.OK{}
	switch m := message.(type) {
	case protocol.Ack:
		a.outbox.acknowledge(m.Sequence)
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
func (a *Agent) carryOut(id uint64, message protocol.HostMessage) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	var result answer
	after := func() {}
	switch m := message.(type) {
	case protocol.Run:
		result, after = started(a.containers.Run(ctx, m))
	case protocol.Exec:
		result, after = started(a.containers.Exec(ctx, m))
	case protocol.Stop:
		result, after = a.stop(ctx, m)
	default:
		result = a.ordinary(ctx, message)
	}
	a.answers.end(id, result).write(result)
	after()
}

// ordinary carries out a command after which there is nothing more to do.
func (a *Agent) ordinary(ctx context.Context, message protocol.HostMessage) answer {
	switch m := message.(type) {
	case protocol.Pod:
		return done(a.containers.MakePod(ctx, m))
	case protocol.Prepare:
		return done(a.containers.Prepare(ctx, m))
	case protocol.Remove:
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
	case protocol.Mount:
		return done(a.options.Volumes.Mount(m))
	case protocol.Unmount:
		return done(a.options.Volumes.Unmount(m))
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

// started is a new process's answer; when that is sent, the host may hear of the process's end.
func started(p *container.Process, err error) (answer, func()) {
	if err != nil {
		return answer{err: err}, func() {}
	}
	return answer{message: protocol.Started{RequestID: p.RequestID()}}, p.Announce
}
