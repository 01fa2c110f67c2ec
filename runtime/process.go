package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

const (
	// startTimeout is how long the guest may take to start a process: one takes a quarter of a second under emulation, and a
	// hundred may be asked for at once.
	startTimeout = 2 * time.Minute
	// exitDrain is how long the report of an exit waits for output that is on its way. A reader that keeps up has it within
	// milliseconds; one that does not gets the rest after the report.
	exitDrain = time.Second
	// execGrace is how long the end of init waits for the ends of the container's other processes, which the guest's kernel kills
	// at the same moment.
	execGrace = 5 * time.Second
	// maxSignal is SIGRTMAX.
	maxSignal = 64
)

// State is where a process is in its life.
type State string

// The states of a process. One of a paused container is paused while it has not ended.
const (
	StateCreated State = "created"
	StateRunning State = "running"
	StatePaused  State = "paused"
	StateStopped State = "stopped"
)

// ExitStatus says how a process ended.
type ExitStatus struct {
	Code   uint32 // 0 to 255; 128+n for signal n
	At     time.Time
	OOM    bool   // it was killed because memory ran out
	Reason string // "exited", "signal: N", "oom", "killed", "start failed", "vm lost"
}

// killedStatus is the end of a process that was killed, now.
func killedStatus() ExitStatus {
	return ExitStatus{Code: 128 + uint32(unix.SIGKILL), At: time.Now(), Reason: "killed"}
}

// lostStatus is the end of a process whose machine has ended, now.
func lostStatus() ExitStatus {
	return ExitStatus{Code: unknownExit, At: time.Now(), Reason: "vm lost"}
}

// Status is what is known of a process.
type Status struct {
	State    State
	PID      int        // see Process.PID
	Exit     ExitStatus // once stopped
	Terminal bool
}

// Process is a process of a container. Its methods are safe for concurrent use.
type Process struct {
	container *Container
	id        string
	request   uint64 // names it to the agent
	spec      *specs.Process
	streams   *streams
	settled   chan struct{} // closed when Start has ended, well or not
	exited    chan struct{} // closed when the process is stopped

	// Guarded by the container's lock.
	life   lifecycle[processState]
	ending bool // its exit is known and being dealt with
	exit   ExitStatus
	size   *protocol.Size
}

func newProcess(c *Container, id string, spec *specs.Process, ends IO) *Process {
	p := &Process{
		container: c, id: id, request: c.sandbox.lastRequest.Add(1), spec: spec, streams: newStreams(ends),
		settled: make(chan struct{}), exited: make(chan struct{}),
		life: lifecycle[processState]{processCreated, processMoves},
	}
	if box := spec.ConsoleSize; box != nil && box.Width <= math.MaxUint16 && box.Height <= math.MaxUint16 {
		p.size = &protocol.Size{Cols: uint16(box.Width), Rows: uint16(box.Height)}
	}
	return p
}

// PID is the host process that stands for it: its container's anchor.
func (p *Process) PID() int { return p.container.anchor.PID() }

func (p *Process) isInit() bool { return p.id == "" }

// String names the process in messages.
func (p *Process) String() string {
	if p.isInit() {
		return "container " + p.container.id
	}
	return fmt.Sprintf("exec %s in container %s", p.id, p.container.id)
}

// Start starts a created process. If that fails the process is stopped. It may have ended when Start returns.
func (p *Process) Start(ctx context.Context) error {
	size, err := p.claimStart()
	if err != nil {
		return fmt.Errorf("start %s: %w", p, err)
	}
	times := newTrace()
	if p.isInit() {
		p.streams.onOutput(func() { p.container.sandbox.keep(PartOutput, &trace{began: times.began}) })
	}
	err = p.run(ctx, size, times)
	if err = p.settle(err); err != nil {
		p.noteInit()
		p.streams.close()
		return fmt.Errorf("start %s: %w", p, err)
	}
	if p.isInit() {
		p.container.sandbox.addPart(PartStart, times)
		p.container.note()
	} else {
		p.container.sandbox.keep(PartExec, times)
	}
	p.catchUp(ctx, size)
	if p.isInit() {
		p.container.runPoststart(ctx)
	}
	return nil
}

// claimStart makes sure that the process can be started, and that only one caller starts it.
func (p *Process) claimStart() (*protocol.Size, error) {
	c := p.container
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.isInit() && c.life.state != containerActive {
		return nil, fmt.Errorf("the container is %s: %w", c.life.state, errdefs.ErrFailedPrecondition)
	}
	if !p.isInit() {
		if err := c.takesExecs(); err != nil {
			return nil, err
		}
	}
	if err := p.life.move(processStarting); err != nil {
		return nil, fmt.Errorf("it %w", err)
	}
	return p.size, nil
}

// run tells the agent to start the process, and opens its streams meanwhile. If one of the two fails the process may run all
// the same: it is killed.
func (p *Process) run(ctx context.Context, size *protocol.Size, times *trace) error {
	message, err := p.startMessage(size)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if p.isInit() {
		if err := p.container.connect(ctx); err != nil {
			return fmt.Errorf("connect its network: %w", err)
		}
	}
	group, groupCtx := errgroup.WithContext(ctx)
	var callErr error
	group.Go(func() error {
		defer times.stage("run")()
		_, callErr = p.container.sandbox.call(groupCtx, startTimeout, message)
		return callErr
	})
	group.Go(func() error {
		defer times.stage("streams")()
		return p.streams.open(groupCtx, p.container.sandbox.guest)
	})
	err = group.Wait()
	if err != nil && callErr != nil && !errors.Is(callErr, context.Canceled) {
		err = callErr // the agent's reason; that the streams did not open then is a consequence
	}
	if err != nil && (callErr == nil || ctx.Err() != nil || errors.Is(callErr, context.Canceled)) {
		p.killUnwanted(context.WithoutCancel(ctx))
	}
	return err
}

// startMessage is what the agent is told to start the process.
func (p *Process) startMessage(size *protocol.Size) (protocol.HostMessage, error) {
	c := p.container
	if p.isInit() {
		spec, err := json.Marshal(c.plan.Spec)
		if err != nil {
			return nil, fmt.Errorf("translate its configuration: %w", err)
		}
		return protocol.Run{
			RequestID: p.request, ContainerID: c.id, Command: p.spec.Args, Spec: spec, Rootfs: c.plan.Spec.Root.Path,
			Terminal: p.spec.Terminal, Streams: p.streams.tokens(), Size: size,
		}, nil
	}
	process, err := json.Marshal(p.spec)
	if err != nil {
		return nil, fmt.Errorf("translate its configuration: %w", err)
	}
	return protocol.Exec{
		RequestID: p.request, ContainerID: c.id, Command: p.spec.Args, TTY: p.spec.Terminal, Process: process,
		Streams: p.streams.tokens(), Size: size,
	}, nil
}

// killUnwanted ends a process that may have been started although its start failed.
func (p *Process) killUnwanted(ctx context.Context) {
	_, err := p.container.sandbox.call(ctx, callTimeout, protocol.Signal{RequestID: p.request, Signal: int32(unix.SIGKILL)})
	if err != nil && !errdefs.IsNotFound(err) && !p.container.sandbox.isLost() {
		p.container.log.Warn("a process whose start failed may run on", "exec", p.id, "error", err)
	}
}

// noteInit writes down what has become of the container's init, if it is that.
func (p *Process) noteInit() {
	if p.isInit() {
		p.container.note()
	}
}

// settle ends a start: the process runs, or it is stopped. An exec that started as its container ended did not start.
func (p *Process) settle(err error) error {
	c := p.container
	c.mu.Lock()
	defer c.mu.Unlock()
	defer close(p.settled)
	if err == nil && !p.isInit() && (c.init.ending || c.init.life.state != processRunning) {
		err = fmt.Errorf("the container has ended: %w", errdefs.ErrFailedPrecondition)
	}
	switch {
	case err == nil:
		p.life.mustMove(processRunning)
	case c.sandbox.isLost():
		p.stop(lostStatus())
	default:
		p.stop(ExitStatus{Code: unknownExit, At: time.Now(), Reason: "start failed"})
	}
	return err
}

// catchUp sends the size that the terminal was given while the process was being started.
func (p *Process) catchUp(ctx context.Context, sent *protocol.Size) {
	p.container.mu.Lock()
	size := p.size
	p.container.mu.Unlock()
	if size == sent || size == nil {
		return
	}
	if err := p.sendSize(ctx, *size); err != nil {
		p.container.log.Warn("the terminal was not resized", "exec", p.id, "error", err)
	}
}

// Kill sends a signal to the process, or with all to every process of its container. A process that has ended is an ErrNotFound,
// one that was not started an ErrFailedPrecondition.
func (p *Process) Kill(ctx context.Context, signal uint32, all bool) error {
	if signal > maxSignal {
		return fmt.Errorf("kill %s: there is no signal %d: %w", p, signal, errdefs.ErrInvalidArgument)
	}
	return p.kill(ctx, protocol.Signal{RequestID: p.request, Signal: int32(signal), All: all})
}

// KillGroup is Kill of the process group that the process leads.
func (p *Process) KillGroup(ctx context.Context, signal uint32) error {
	if signal == 0 || signal > maxSignal {
		return fmt.Errorf("kill group of %s: there is no signal %d: %w", p, signal, errdefs.ErrInvalidArgument)
	}
	return p.kill(ctx, protocol.Signal{RequestID: p.request, Signal: -int32(signal)})
}

func (p *Process) kill(ctx context.Context, message protocol.Signal) error {
	if err := p.takesSignals(); err != nil {
		return fmt.Errorf("kill %s: %w", p, err)
	}
	sandbox := p.container.sandbox
	_, err := sandbox.call(ctx, callTimeout, message)
	if err != nil && sandbox.isLost() {
		return fmt.Errorf("kill %s: its VM has ended: %w", p, errdefs.ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("kill %s: %w", p, err)
	}
	return nil
}

func (p *Process) takesSignals() error {
	p.container.mu.Lock()
	defer p.container.mu.Unlock()
	switch {
	case p.life.in(processCreated, processStarting):
		return fmt.Errorf("it is %s: %w", p.life.state, errdefs.ErrFailedPrecondition)
	case p.ending || p.life.in(processStopped, processDeleted):
		return fmt.Errorf("it has ended: %w", errdefs.ErrNotFound)
	}
	return nil
}

// Resize sets the size of the process's terminal in characters. Without a terminal, or after the end, it does nothing.
func (p *Process) Resize(ctx context.Context, cols, rows uint32) error {
	if !p.spec.Terminal {
		return nil
	}
	if cols > math.MaxUint16 || rows > math.MaxUint16 {
		return fmt.Errorf("resize terminal of %s: %dx%d is larger than %d: %w", p, cols, rows, math.MaxUint16, errdefs.ErrInvalidArgument)
	}
	size := protocol.Size{Cols: uint16(cols), Rows: uint16(rows)}
	p.container.mu.Lock()
	p.size = &size // sent by Start if it comes before or during it
	running := p.life.state == processRunning && !p.ending
	p.container.mu.Unlock()
	if !running {
		return nil
	}
	if err := p.sendSize(ctx, size); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("resize terminal of %s: %w", p, err)
	}
	return nil
}

func (p *Process) sendSize(ctx context.Context, size protocol.Size) error {
	_, err := p.container.sandbox.call(ctx, callTimeout, protocol.Resize{RequestID: p.request, Size: size})
	return err
}

// Wait returns how the process ended, once it has. Any number of callers may wait.
func (p *Process) Wait(ctx context.Context) (ExitStatus, error) {
	select {
	case <-p.exited:
		p.container.mu.Lock()
		defer p.container.mu.Unlock()
		return p.exit, nil
	case <-ctx.Done():
		return ExitStatus{}, fmt.Errorf("wait for %s: %w", p, context.Cause(ctx))
	}
}

// Status tells what is known of the process. It does not ask the guest.
func (p *Process) Status() Status {
	p.container.mu.Lock()
	defer p.container.mu.Unlock()
	return Status{State: p.state(), PID: p.PID(), Exit: p.exit, Terminal: p.spec.Terminal}
}

// state is where the process is in its life. The caller holds the container's lock.
func (p *Process) state() State {
	switch {
	case p.life.in(processStopped, processDeleted):
		return StateStopped
	case p.life.in(processCreated, processStarting):
		return StateCreated
	case p.container.life.state == containerPaused:
		return StatePaused
	default:
		return StateRunning
	}
}

// Delete forgets an exec that has ended or was never started, and returns how it ended. While it runs it is an
// ErrFailedPrecondition.
func (p *Process) Delete(ctx context.Context) (ExitStatus, error) {
	if p.isInit() {
		return ExitStatus{}, fmt.Errorf("delete %s: its init goes with it: %w", p, errdefs.ErrInvalidArgument)
	}
	exit, err := p.claimDelete()
	if err != nil {
		return ExitStatus{}, fmt.Errorf("delete %s: %w", p, err)
	}
	p.streams.drain(ctx, p.container.sandbox.drainLimit(deleteDrain), true)
	p.streams.close()
	p.container.removeExec(p)
	return exit, nil
}

func (p *Process) claimDelete() (ExitStatus, error) {
	p.container.mu.Lock()
	defer p.container.mu.Unlock()
	switch {
	case p.life.state == processDeleted:
		return ExitStatus{}, errdefs.ErrNotFound
	case p.life.state == processCreated:
		p.stop(killedStatus())
	}
	if err := p.life.move(processDeleted); err != nil {
		return ExitStatus{}, fmt.Errorf("it %w", err)
	}
	return p.exit, nil
}
