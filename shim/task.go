package shim

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	eventtypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limpet-run/limpet/runtime"
)

// guestTimeout bounds a request that the guest has to carry out, so that a guest that hangs does not hang containerd. Starting a process is
// the longest of them: under emulation, on a busy host, it takes seconds.
const guestTimeout = 60 * time.Second

// task is the shim's record of one container.
type task struct {
	id, bundle string
	container  Container // the runtime's
	init       *process
	publish    func(proto.Message)
	logger     *slog.Logger

	mu    sync.Mutex
	execs map[string]*process // nil: the id is taken by an exec that is being made
	ended bool                // the init process has exited: of no exec it is said any more that it started
	live  sync.WaitGroup      // execs whose start was published and whose exit was not; Add only under mu and while not ended
	oomed bool                // an OOM was published
}

// process returns the init process for an empty exec id, else that exec.
func (t *task) process(execID string) (*process, error) {
	if execID == "" {
		return t.init, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if exec := t.execs[execID]; exec != nil {
		return exec, nil
	}
	return nil, fmt.Errorf("exec %s of container %s: %w", execID, t.id, errdefs.ErrNotFound)
}

// reserve takes an exec id; one that is not used in the end is given back with forget.
func (t *task) reserve(execID string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, taken := t.execs[execID]; taken {
		return fmt.Errorf("exec %s of container %s: %w", execID, t.id, errdefs.ErrAlreadyExists)
	}
	if t.ended {
		return t.notRunning()
	}
	t.execs[execID] = nil
	return nil
}

func (t *task) notRunning() error {
	return fmt.Errorf("the init process of container %s does not run: %w", t.id, errdefs.ErrFailedPrecondition)
}

// takesExecs fails unless the init process runs and is not paused.
func (t *task) takesExecs() error {
	if phase, _ := t.init.record(); phase != running {
		return t.notRunning()
	}
	if t.init.backing.Status().State == runtime.StatePaused {
		return fmt.Errorf("container %s is paused: resume it first: %w", t.id, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// add makes a reserved exec known.
func (t *task) add(exec *process) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.execs[exec.execID] = exec
}

func (t *task) forget(execID string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.execs, execID)
}

// watchCreated waits for the end of a process before its start, which is that of its VM. Like a kill before the start it is published
// for the init process, of which every client has heard.
func (t *task) watchCreated(p *process) {
	if exit, err := p.backing.Wait(p.unstarted); err == nil {
		t.endCreated(p, exit)
	}
}

// endCreated stops a process that was not started and tells whether it did.
func (t *task) endCreated(p *process, exit runtime.ExitStatus) bool {
	if p.execID != "" {
		return p.stopCreated(exit, nil)
	}
	return p.stopCreated(exit, func() {
		t.keepExit(p, exit)
		t.publishExit(p, exit)
	})
}

// start starts a process and begins to watch it. If that fails the process has stopped, and there is no exit to publish.
func (t *task) start(ctx context.Context, p *process) error {
	if err := p.setStarting(); err != nil {
		return fmt.Errorf("start in container %s: %w", t.id, err)
	}
	err := p.backing.Start(ctx)
	if err == nil {
		err = t.announce(p)
	}
	if err != nil {
		p.stop(failedExit(), nil)
		return err
	}
	p.setRunning()
	go t.watch(p)
	return nil
}

// announce publishes the start of a process. It fails for an exec that came to life as its container ended.
func (t *task) announce(p *process) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case p.execID == "":
		t.publish(&eventtypes.TaskStart{ContainerID: t.id, Pid: p.pid()})
	case t.ended:
		return t.notRunning()
	default:
		t.live.Add(1)
		t.publish(&eventtypes.TaskExecStarted{ContainerID: t.id, ExecID: p.execID, Pid: p.pid()})
	}
	return nil
}

func failedExit() runtime.ExitStatus {
	return runtime.ExitStatus{Code: exitCodeFailed, At: time.Now(), Reason: "start failed"}
}

// watch waits for the exit of a running process and publishes it.
func (t *task) watch(p *process) {
	exit, err := p.backing.Wait(context.Background()) // ends when the process does, at the latest with its VM
	if err != nil {
		t.logger.Error("exit not learned", "exec", p.execID, "error", err)
		exit = runtime.ExitStatus{Code: exitCodeFailed, At: time.Now(), Reason: err.Error()}
	}
	if p.execID != "" {
		t.exited(p, exit)
		t.live.Done()
		return
	}
	t.mu.Lock()
	t.ended = true
	t.mu.Unlock()
	t.live.Wait() // the exits of execs are there, see Process.Wait; they are published first
	t.exited(p, exit)
}

// exited records the exit of a process that ran and publishes it, once.
func (t *task) exited(p *process, exit runtime.ExitStatus) {
	t.keepExit(p, exit)
	p.stop(exit, func() { t.publishExit(p, exit) })
}

// keepExit writes the exit of the init process where `delete` finds it, should the shim be gone by then.
func (t *task) keepExit(p *process, exit runtime.ExitStatus) {
	if p.execID == "" {
		t.keep(taskRecord{PID: p.pid(), Exit: &exitRecord{Code: exit.Code, At: exit.At}})
	}
}

func (t *task) keep(record taskRecord) {
	if err := writeTaskRecord(t.bundle, record); err != nil {
		t.logger.Warn("the task's record is not written to the bundle", "error", err)
	}
}

func (t *task) publishExit(p *process, exit runtime.ExitStatus) {
	id := p.execID
	if id == "" {
		id = t.id
	}
	t.beforeExit(p, exit)
	t.publish(&eventtypes.TaskExit{
		ContainerID: t.id,
		ID:          id,
		Pid:         p.pid(),
		ExitStatus:  exit.Code,
		ExitedAt:    timestamppb.New(exit.At),
	})
}

// beforeExit publishes an OOM that only the exit tells of. After the exit of the init process nothing follows but the delete event.
func (t *task) beforeExit(p *process, exit runtime.ExitStatus) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if exit.OOM && !t.oomed {
		t.oomed = true
		t.publish(&eventtypes.TaskOOM{ContainerID: t.id})
	}
	if p.execID == "" {
		t.ended = true
	}
}

// change carries out a pause or a resume and publishes it, unless the container has ended meanwhile: then nothing may follow its exit.
func (t *task) change(ctx context.Context, action func(context.Context) error, event proto.Message) error {
	if err := action(ctx); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ended {
		t.publish(event)
	}
	return nil
}

// oom publishes that the guest ran out of memory in the container.
func (t *task) oom() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return
	}
	t.oomed = true
	t.publish(&eventtypes.TaskOOM{ContainerID: t.id})
}

// maxSignal is the highest signal of Linux (SIGRTMAX).
const maxSignal = 64

// kill sends a signal. What has stopped is not found, the one answer that every client takes for "already dead".
func (t *task) kill(ctx context.Context, p *process, signal uint32, all bool) error {
	if signal > maxSignal {
		return fmt.Errorf("signal %d to %s of container %s: there are %d: %w", signal, p.name(), t.id, maxSignal, errdefs.ErrInvalidArgument)
	}
	switch phase, _ := p.record(); {
	case phase == stopped:
		return fmt.Errorf("%s of container %s has exited: %w", p.name(), t.id, errdefs.ErrNotFound)
	case phase == created && p.execID != "":
		return fmt.Errorf("%s of container %s is not started: %w", p.name(), t.id, errdefs.ErrFailedPrecondition)
	case phase == created:
		exit, ok := killedBeforeStart(signal)
		if !ok {
			return fmt.Errorf("signal %d to container %s, which is not started: %w", signal, t.id, errdefs.ErrFailedPrecondition)
		}
		if t.endCreated(p, exit) {
			return nil
		}
	}
	return p.backing.Kill(ctx, signal, all)
}

// delete removes a stopped or never started process with remove and returns its exit. It can be called again after a failure.
func (t *task) delete(ctx context.Context, p *process, remove func(context.Context) (runtime.ExitStatus, error),
) (runtime.ExitStatus, error) {
	select {
	case p.deleting <- struct{}{}:
		defer func() { <-p.deleting }()
	case <-ctx.Done():
		return runtime.ExitStatus{}, ctx.Err()
	}
	if p.deleted {
		return runtime.ExitStatus{}, fmt.Errorf("%s of container %s: %w", p.name(), t.id, errdefs.ErrNotFound)
	}
	if !p.stopCreated(runtime.ExitStatus{At: time.Now(), Reason: "deleted before start"}, nil) {
		if err := t.awaitStopped(ctx, p); err != nil {
			return runtime.ExitStatus{}, err
		}
	}
	if _, err := remove(ctx); err != nil {
		return runtime.ExitStatus{}, err
	}
	p.streams.finish(ctx)
	p.deleted = true
	_, exit := p.record()
	return exit, nil
}

// awaitStopped fails for a process that runs. The runtime knows of an exit a moment before it is published, and the delete event must come
// after that, so it waits for that moment to be over.
func (t *task) awaitStopped(ctx context.Context, p *process) error {
	if phase, _ := p.record(); phase != stopped && p.backing.Status().State != runtime.StateStopped {
		return fmt.Errorf("%s of container %s runs: kill it first: %w", p.name(), t.id, errdefs.ErrFailedPrecondition)
	}
	_, err := p.wait(ctx)
	return err
}
