package shim

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/limpet-run/limpet/runtime"
)

const (
	// stopTimeout bounds the stop of a sandbox, for which the verb `delete` waits, and containerd for 3 s with ShutdownSandbox. What is not
	// done by then is left to `delete`, which ends everything by its process id.
	stopTimeout = 2 * time.Second
	// flushTimeout bounds the wait for the last events. containerd takes them at once, or is not there.
	flushTimeout = 500 * time.Millisecond
)

// service is the logic behind the task service: one sandbox and its tasks. The RPCs that decode and encode are in rpc.go.
// Its lock guards the records only; nothing that can wait is called with it.
type service struct {
	id, namespace string
	bundle        string
	before        stages // what was done before there was this
	spare         Spare  // for the first sandbox; nil: there is none. Guarded by mu
	runtime       Runtime
	events        interface {
		publish(event proto.Message)
		flush(ctx context.Context) error
		retry()
		close()
	}
	logger *slog.Logger // names the sandbox
	// runtimeLogger does not, as the runtime does so itself.
	runtimeLogger *slog.Logger
	// settle is called when a sandbox has been made, or could not be.
	settle func()
	// closed removes the socket. It may be called again.
	closed func()
	// life ends when the service closes; it takes a sandbox that is still being made with it.
	life    context.Context
	endLife context.CancelFunc

	mu      sync.Mutex
	sandbox *sandboxSlot     // nil: none
	tasks   map[string]*task // nil value: the id is taken by a container that is being made
	making  map[string]making
	closing bool
	widowed bool          // the container that has the sandbox's identifier was deleted before the others: the last of them ends the sandbox
	pod     *pod          // that the sandbox service has made; nil: none
	gone    chan struct{} // closed when the process may exit
}

// making is a container that is being made.
type making struct {
	callerGone <-chan struct{} // closed when nobody waits for it any more: it is being undone
	done       chan struct{}   // closed when it is made or undone
}

// sandboxSlot is a sandbox that is being made, or is there.
type sandboxSlot struct {
	done    chan struct{} // closed when the two below are set
	sandbox Sandbox
	err     error
}

func newService(id, namespace, bundle string, runtime Runtime, logger *slog.Logger) *service {
	life, endLife := context.WithCancel(context.Background())
	return &service{
		life:      life,
		endLife:   endLife,
		id:        id,
		namespace: namespace,
		bundle:    bundle,
		runtime:   runtime,
		logger:    logger.With("sandbox", id),

		runtimeLogger: logger,

		settle: func() {},
		closed: func() {},
		tasks:  make(map[string]*task),
		making: make(map[string]making),
		gone:   make(chan struct{}),
	}
}

// task returns the record of a container.
func (s *service) task(id string) (*task, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if task := s.tasks[id]; task != nil {
		return task, nil
	}
	return nil, fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound)
}

// process returns the records of a process and its container.
func (s *service) process(id, execID string) (*task, *process, error) {
	task, err := s.task(id)
	if err != nil {
		return nil, nil, err
	}
	process, err := task.process(execID)
	return task, process, err
}

// reserve takes a container id; add or forget follows. An id whose container is being undone, because containerd was killed while it
// was being made, is there when that is done: the next containerd is asked for the same container again.
func (s *service) reserve(ctx context.Context, id string) error {
	for {
		other, err := s.tryReserve(ctx, id)
		if err == nil || other.done == nil {
			return err
		}
		select {
		case <-other.callerGone:
		default:
			return err
		}
		select {
		case <-other.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tryReserve takes a container id, or tells who makes a container of that id now, if that is what keeps it.
func (s *service) tryReserve(ctx context.Context, id string) (making, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return making{}, fmt.Errorf("container %s: sandbox %s is shutting down: %w", id, s.id, errdefs.ErrUnavailable)
	}
	if _, taken := s.tasks[id]; taken {
		return s.making[id], fmt.Errorf("container %s: %w", id, errdefs.ErrAlreadyExists)
	}
	s.tasks[id] = nil
	s.making[id] = making{callerGone: ctx.Done(), done: make(chan struct{})}
	return making{}, nil
}

func (s *service) add(task *task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tasks[task.id] = task
	s.made(task.id)
}

func (s *service) forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tasks, id)
	s.made(id)
}

// made ends the making of a container, if it is being made. The caller holds the lock.
func (s *service) made(id string) {
	if making, ok := s.making[id]; ok {
		close(making.done)
		delete(s.making, id)
	}
}

// containerFor makes a container, and the sandbox with it if there is none. One caller makes that and the others wait for that one. called
// is when containerd's call came.
func (s *service) containerFor(ctx context.Context, container runtime.ContainerOptions, options RuntimeOptions, called time.Time,
) (Container, error) {
	slot, claimed := s.claimSandbox()
	if claimed {
		made, err := s.makeSandbox(ctx, slot, SandboxOptions{Bundle: container.Bundle, Options: options, First: &container}, called)
		if err != nil {
			return nil, err
		}
		if first := made.First(); first != nil {
			return first, nil
		}
	}
	select {
	case <-slot.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if slot.err != nil {
		return nil, slot.err
	}
	return slot.sandbox.CreateContainer(ctx, container)
}

// claimSandbox takes the place of the sandbox; makeSandbox follows. If it is taken, the second result is false.
func (s *service) claimSandbox() (*sandboxSlot, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sandbox != nil {
		return s.sandbox, false
	}
	// The error stands if making it panics: those who wait get an answer, and the next may try again.
	s.sandbox = &sandboxSlot{done: make(chan struct{}), err: fmt.Errorf("sandbox %s was not made: %w", s.id, errdefs.ErrInternal)}
	return s.sandbox, true
}

// makeSandbox makes the sandbox whose place its caller has claimed; called is when containerd's call for it came.
func (s *service) makeSandbox(ctx context.Context, slot *sandboxSlot, options SandboxOptions, called time.Time) (Sandbox, error) {
	defer func() {
		if slot.err != nil {
			s.mu.Lock()
			s.sandbox = nil
			s.mu.Unlock()
		}
		close(slot.done)
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	options.ID, options.Namespace, options.OOM, options.Logger = s.id, s.namespace, s.oom, s.runtimeLogger
	options.Before = slices.Concat(s.before, stages{{Name: "call", Began: called, Ended: time.Now()}})
	options.Spare = s.takeSpare()
	slot.sandbox, slot.err = s.runtime.NewSandbox(ctx, options)
	s.settle()
	return slot.sandbox, slot.err
}

// leave settles what follows from the deletion of a container. The verb `delete`, which comes next in the bundle of the container that has
// the sandbox's identifier, such as a pod's pause container, would end this process: while there are others, it is not to find it. The
// last of those ends the sandbox, as nobody else does.
func (s *service) leave(id string) {
	s.mu.Lock()
	last := len(s.tasks) == 0
	s.widowed = s.widowed || id == s.id && !last
	widowed := s.widowed
	s.mu.Unlock()
	switch {
	case widowed && last:
		if slot, begun := s.beginClose(false); begun {
			go s.finishClose(slot)
		}
	case widowed && id == s.id:
		if err := removeServerRecord(s.bundle); err != nil {
			s.logger.Warn("the sandbox ends with its first container", "error", err)
		}
	}
}

func (s *service) oom(containerID string) {
	if task, err := s.task(containerID); err == nil {
		task.oom()
	}
}

// shutDown begins to close, unless there are tasks, and does not wait for the end: the verb `delete`, which comes next, does, as it finds no
// socket. That is gone when this returns, so that a `start` does not find a server that is about to exit. One that closes already is
// waited for: after the deletion of its last container `delete` does not find it, see leave.
func (s *service) shutDown(ctx context.Context) error {
	slot, begun := s.beginClose(false)
	if begun {
		s.closed()
		go s.finishClose(slot)
		return nil
	}
	return s.awaitClose(ctx)
}

// close stops the sandbox with its tasks, sends the last events, removes the socket and lets the process exit. A call after the first waits
// for it.
func (s *service) close(ctx context.Context) error {
	if slot, begun := s.beginClose(true); begun {
		s.finishClose(slot)
	}
	return s.awaitClose(ctx)
}

// awaitClose waits for the end of a service that closes.
func (s *service) awaitClose(ctx context.Context) error {
	s.mu.Lock()
	closing := s.closing
	s.mu.Unlock()
	if !closing {
		return nil
	}
	select {
	case <-s.gone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// beginClose keeps anything new from beginning; finishClose follows. It tells whether it did so: not the second time, nor, unless they are
// to end too, while there are tasks.
func (s *service) beginClose(withTasks bool) (slot *sandboxSlot, begun bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing || len(s.tasks) > 0 && !withTasks {
		return nil, false
	}
	s.closing = true
	s.endLife()
	return s.sandbox, true
}

// finishClose does what beginClose has begun.
func (s *service) finishClose(slot *sandboxSlot) {
	if spare := s.takeSpare(); spare != nil {
		s.stopSpare(context.Background(), spare)
	}
	if slot != nil {
		s.stop(context.Background(), slot)
	}
	s.closed()
	flush, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	if err := s.events.flush(flush); err != nil {
		s.logger.Warn("events not sent before exit", "error", err)
	}
	close(s.gone)
}

// takeSpare returns the machine that waits for its sandbox, once.
func (s *service) takeSpare() Spare {
	s.mu.Lock()
	defer s.mu.Unlock()
	spare := s.spare
	s.spare = nil
	return spare
}

// stopSpare ends a machine for which no sandbox came.
func (s *service) stopSpare(ctx context.Context, spare Spare) {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	if err := spare.Stop(ctx); err != nil {
		s.logger.Error("spare not stopped cleanly", "error", err)
	}
}

// stop ends the sandbox and waits for the exits of what ran in it to be queued.
func (s *service) stop(ctx context.Context, slot *sandboxSlot) {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	select {
	case <-slot.done:
	case <-ctx.Done():
		s.logger.Warn("sandbox not stopped: making it has not been given up in time")
		return
	}
	if slot.err != nil {
		return
	}
	if err := slot.sandbox.Stop(ctx); err != nil {
		s.logger.Error("sandbox not stopped cleanly", "error", err)
	}
	for _, task := range s.list() {
		task.init.wait(ctx) // its error is that the time is over, and the next says so too
	}
}

func (s *service) list() []*task {
	s.mu.Lock()
	defer s.mu.Unlock()
	var tasks []*task
	for _, task := range s.tasks {
		if task != nil {
			tasks = append(tasks, task)
		}
	}
	return tasks
}
