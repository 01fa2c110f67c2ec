package shim

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/runtime"
)

// phase is where a process is in its life; the package's documentation draws it.
type phase int

const (
	created phase = iota
	starting
	running
	stopped
)

// exitCodeFailed is the exit code of a process that could not be started, and of one whose exit was never learned.
const exitCodeFailed = 255

// process is the shim's record of a process. What State and Wait answer comes from here.
type process struct {
	execID   string // empty for the init process
	stdio    stdio
	streams  *streams
	backing  Process       // the runtime's
	deleting chan struct{} // holds a token while a Delete is under way
	deleted  bool          // by whom holds that token

	mu      sync.Mutex
	phase   phase
	exit    runtime.ExitStatus // once stopped
	stopped chan struct{}      // closed when stopped, and when the exit event, if there is one, is queued

	unstarted context.Context // ends when the process leaves created
	leave     context.CancelFunc
}

func newProcess(execID string, stdio stdio, streams *streams, backing Process) *process {
	unstarted, leave := context.WithCancel(context.Background())
	return &process{
		execID:    execID,
		stdio:     stdio,
		streams:   streams,
		backing:   backing,
		deleting:  make(chan struct{}, 1),
		stopped:   make(chan struct{}),
		unstarted: unstarted,
		leave:     leave,
	}
}

func (p *process) name() string {
	if p.execID == "" {
		return "init process"
	}
	return "exec " + p.execID
}

// pid is the host's process id that stands for it.
func (p *process) pid() uint32 { return uint32(p.backing.PID()) }

// record returns the phase and, once stopped, the exit.
func (p *process) record() (phase, runtime.ExitStatus) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.phase, p.exit
}

// setStarting claims the start of a process that was created.
func (p *process) setStarting() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phase != created {
		return fmt.Errorf("%s has been started before, or has ended: %w", p.name(), errdefs.ErrFailedPrecondition)
	}
	p.phase = starting
	p.leave()
	return nil
}

// setRunning ends a start that went well. Only its caller has claimed it, so nothing else can have happened to the process.
func (p *process) setRunning() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.phase = running
}

// stop records the exit, once; later calls change nothing. publish, if there is something to publish, runs before anyone can see that the
// process has stopped; it must not wait for anything.
func (p *process) stop(exit runtime.ExitStatus, publish func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phase != stopped {
		p.stopLocked(exit, publish)
	}
}

// stopCreated is stop for a process that was not started; of another it changes nothing and returns false.
func (p *process) stopCreated(exit runtime.ExitStatus, publish func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phase != created {
		return false
	}
	p.stopLocked(exit, publish)
	return true
}

func (p *process) stopLocked(exit runtime.ExitStatus, publish func()) {
	if publish != nil {
		publish()
	}
	p.phase, p.exit = stopped, exit
	p.leave()
	close(p.stopped)
}

// wait returns the exit as soon as there is one.
func (p *process) wait(ctx context.Context) (runtime.ExitStatus, error) {
	select {
	case <-p.stopped:
		_, exit := p.record()
		return exit, nil
	case <-ctx.Done():
		return runtime.ExitStatus{}, ctx.Err()
	}
}

// killedBeforeStart says which exit a signal gives to an init process that does not run yet; ok is false for a signal that it survives.
// A client can only delete a task that it has seen stop, so a created one must be killable.
func killedBeforeStart(signal uint32) (exit runtime.ExitStatus, ok bool) {
	switch unix.Signal(signal) {
	case unix.SIGKILL, unix.SIGTERM:
		return runtime.ExitStatus{Code: 128 + signal, At: time.Now(), Reason: fmt.Sprintf("signal: %d", signal)}, true
	}
	return runtime.ExitStatus{}, false
}
