package shim

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	eventtypes "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/limpet-run/limpet/runtime"
	"github.com/limpet-run/limpet/runtime/config"
)

// fakeRuntime is a Runtime in memory. Its processes exit when a test says so, or by a signal.
type fakeRuntime struct {
	mu         sync.Mutex
	sandboxes  []*fakeSandbox
	failNew    error
	panicNew   bool
	blockNew   chan struct{} // not nil: NewSandbox waits for it, or for its context
	entered    chan struct{} // not nil: NewSandbox has been entered
	cleaned    []string
	beforeExit func(*fakeProcess) // called in Start
	onStop     func()             // called in Stop, if set
}

func (r *fakeRuntime) NewSandbox(ctx context.Context, options SandboxOptions) (Sandbox, error) {
	if r.entered != nil {
		close(r.entered)
	}
	if r.blockNew != nil {
		select {
		case <-r.blockNew:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.panicNew {
		panic("a bug")
	}
	if r.failNew != nil {
		return nil, r.failNew
	}
	sandbox := &fakeSandbox{runtime: r, options: options, containers: map[string]*fakeContainer{}}
	if options.Pod != nil {
		sandbox.pod = &fakeContainer{id: options.ID, state: runtime.StateCreated}
		sandbox.pod.init = newFakeProcess(sandbox.pod, "", runtime.IO{})
		sandbox.pod.init.hook = func(p *fakeProcess) { _ = p.container.set(runtime.StateRunning) }
	}
	if options.First != nil {
		var err error
		if sandbox.first, err = sandbox.CreateContainer(ctx, *options.First); err != nil {
			return nil, err
		}
	}
	r.sandboxes = append(r.sandboxes, sandbox)
	return sandbox, nil
}

func (r *fakeRuntime) NewSpare(context.Context, config.Config, *slog.Logger) (Spare, error) {
	return &fakeSpare{lost: make(chan struct{})}, nil
}

type fakeSpare struct {
	lost    chan struct{}
	stopped bool
}

func (s *fakeSpare) Lost() <-chan struct{}            { return s.lost }
func (s *fakeSpare) Processes() []runtime.HostProcess { return nil }

func (s *fakeSpare) Stop(context.Context) error {
	s.stopped = true
	return nil
}

func (r *fakeRuntime) Cleanup(_ context.Context, bundle string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleaned = append(r.cleaned, bundle)
	return nil
}

type fakeSandbox struct {
	runtime    *fakeRuntime
	options    SandboxOptions
	pod        *fakeContainer // nil: it is none
	first      Container
	failCreate error
	hold       func(ctx context.Context) error // called by each creation, if set

	mu         sync.Mutex
	containers map[string]*fakeContainer
	stopped    bool
}

func (s *fakeSandbox) Pod() Container {
	if s.pod == nil {
		return nil
	}
	return s.pod
}

func (s *fakeSandbox) First() Container { return s.first }

func (s *fakeSandbox) CreateContainer(ctx context.Context, options runtime.ContainerOptions) (Container, error) {
	if s.hold != nil {
		if err := s.hold(ctx); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failCreate != nil {
		return nil, s.failCreate
	}
	container := &fakeContainer{id: options.ID, state: runtime.StateRunning}
	container.init = newFakeProcess(container, "", options.IO)
	container.init.hook = s.runtime.beforeExit
	s.containers[options.ID] = container
	return container, nil
}

func (s *fakeSandbox) Stop(context.Context) error {
	if s.runtime.onStop != nil {
		s.runtime.onStop()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	if s.pod != nil {
		s.pod.init.end(runtime.ExitStatus{Code: 255, At: time.Now()})
	}
	for _, container := range s.containers {
		container.init.end(runtime.ExitStatus{Code: 137, At: time.Now()})
	}
	return nil
}

type fakeContainer struct {
	id   string
	init *fakeProcess

	mu         sync.Mutex
	state      runtime.State
	execs      []*fakeProcess
	failDelete error
	stats      runtime.Stats
	failUpdate error
	updates    []*specs.LinuxResources
}

func (c *fakeContainer) Init() Process { return c.init }

func (c *fakeContainer) Exec(_ context.Context, options runtime.ExecOptions) (Process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	exec := newFakeProcess(c, options.ID, options.IO)
	exec.hook = c.init.hook
	c.execs = append(c.execs, exec)
	return exec, nil
}

func (c *fakeContainer) exec(id string) *fakeProcess {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.execs[slices.IndexFunc(c.execs, func(p *fakeProcess) bool { return p.id == id })]
}

func (c *fakeContainer) Pids() []runtime.Pid {
	pids := []runtime.Pid{{PID: 42}}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, exec := range c.execs {
		pids = append(pids, runtime.Pid{PID: 42, ExecID: exec.id})
	}
	return pids
}

func (c *fakeContainer) set(state runtime.State) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = state
	return nil
}

func (c *fakeContainer) Pause(context.Context) error  { return c.set(runtime.StatePaused) }
func (c *fakeContainer) Resume(context.Context) error { return c.set(runtime.StateRunning) }

func (c *fakeContainer) Stats(context.Context) (runtime.Stats, error) { return c.stats, nil }

func (c *fakeContainer) Update(_ context.Context, resources *specs.LinuxResources) error {
	c.updates = append(c.updates, resources)
	return c.failUpdate
}

func (c *fakeContainer) Delete(ctx context.Context) (runtime.ExitStatus, error) {
	c.mu.Lock()
	err := c.failDelete
	c.mu.Unlock()
	if err != nil {
		return runtime.ExitStatus{}, err
	}
	return c.init.Delete(ctx)
}

type fakeProcess struct {
	container *fakeContainer
	id        string
	io        runtime.IO
	hook      func(*fakeProcess)
	failStart error
	block     chan struct{} // not nil: Start and Kill wait for it

	mu      sync.Mutex
	started bool
	signals []string
	resized int
	exit    runtime.ExitStatus
	exited  chan struct{}
}

func newFakeProcess(container *fakeContainer, id string, io runtime.IO) *fakeProcess {
	return &fakeProcess{container: container, id: id, io: io, exited: make(chan struct{})}
}

func (p *fakeProcess) PID() int { return 42 }

func (p *fakeProcess) Start(context.Context) error {
	if p.block != nil {
		<-p.block
	}
	if p.failStart != nil {
		p.closeIO()
		return p.failStart
	}
	p.mu.Lock()
	p.started = true
	p.mu.Unlock()
	if p.hook != nil {
		p.hook(p)
	}
	return nil
}

func (p *fakeProcess) closeIO() {
	for _, closer := range []io.Closer{p.io.Stdin, p.io.Stdout, p.io.Stderr} {
		if closer != nil {
			closer.Close()
		}
	}
}

// end lets the process exit, once; an init process takes its execs along.
func (p *fakeProcess) end(exit runtime.ExitStatus) {
	if p.id == "" {
		p.container.mu.Lock()
		execs := slices.Clone(p.container.execs)
		p.container.mu.Unlock()
		for _, exec := range execs {
			exec.endAlone(runtime.ExitStatus{Code: 137, At: time.Now()})
		}
	}
	p.endAlone(exit)
}

func (p *fakeProcess) endAlone(exit runtime.ExitStatus) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.exited:
		return
	default:
	}
	p.exit = exit
	p.closeIO()
	close(p.exited)
}

func (p *fakeProcess) Kill(_ context.Context, signal uint32, all bool) error {
	if p.block != nil {
		<-p.block
	}
	p.mu.Lock()
	p.signals = append(p.signals, fmt.Sprint(signal, all))
	p.mu.Unlock()
	if signal == 0 {
		return nil
	}
	p.end(runtime.ExitStatus{Code: 128 + signal, At: time.Now()})
	return nil
}

func (p *fakeProcess) Resize(context.Context, uint32, uint32) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.resized++
	return nil
}

func (p *fakeProcess) Wait(ctx context.Context) (runtime.ExitStatus, error) {
	select {
	case <-p.exited:
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.exit, nil
	case <-ctx.Done():
		return runtime.ExitStatus{}, ctx.Err()
	}
}

func (p *fakeProcess) Status() runtime.Status {
	select {
	case <-p.exited:
		return runtime.Status{State: runtime.StateStopped}
	default:
	}
	p.container.mu.Lock()
	defer p.container.mu.Unlock()
	return runtime.Status{State: p.container.state}
}

func (p *fakeProcess) Delete(context.Context) (runtime.ExitStatus, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.exited:
	default:
		if p.started {
			return runtime.ExitStatus{}, fmt.Errorf("it runs: %w", errdefs.ErrFailedPrecondition)
		}
	}
	return p.exit, nil
}

// recorder takes events in memory.
type recorder struct {
	mu     sync.Mutex
	events []string
	grown  chan struct{}
}

func newRecorder() *recorder { return &recorder{grown: make(chan struct{}, 1)} }

func (r *recorder) publish(event proto.Message) {
	r.mu.Lock()
	r.events = append(r.events, eventName(event))
	r.mu.Unlock()
	select {
	case r.grown <- struct{}{}:
	default:
	}
}

func (r *recorder) flush(context.Context) error { return nil }

func (r *recorder) retry() {}

func (r *recorder) close() {}

func (r *recorder) list() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// await waits until that many events have been published and returns all.
func (r *recorder) await(t *testing.T, count int) []string {
	t.Helper()
	for {
		if events := r.list(); len(events) >= count {
			return events
		}
		select {
		case <-r.grown:
		case <-time.After(10 * time.Second):
			t.Fatalf("%d events did not come: %q", count, r.list())
		}
	}
}

func eventName(event proto.Message) string {
	switch event := event.(type) {
	case *eventtypes.TaskCreate:
		return "create " + event.ContainerID
	case *eventtypes.TaskStart:
		return "start " + event.ContainerID
	case *eventtypes.TaskOOM:
		return "oom " + event.ContainerID
	case *eventtypes.TaskExit:
		return fmt.Sprintf("exit %s %d", event.ID, event.ExitStatus)
	case *eventtypes.TaskDelete:
		return fmt.Sprintf("delete %s %d", event.ContainerID, event.ExitStatus)
	case *eventtypes.TaskExecAdded:
		return "exec-added " + event.ExecID
	case *eventtypes.TaskExecStarted:
		return "exec-started " + event.ExecID
	}
	return string(proto.MessageName(event).Name())
}

// fixture is a service over a fakeRuntime.
type fixture struct {
	*testing.T
	rpcs
	fake   *fakeRuntime
	events *recorder
}

func newFixture(t *testing.T) *fixture {
	fake := &fakeRuntime{}
	events := newRecorder()
	service := newService("c1", "ns", t.TempDir(), fake, slog.New(slog.DiscardHandler))
	service.events = events
	return &fixture{T: t, rpcs: rpcs{service}, fake: fake, events: events}
}

func (f *fixture) create(id string) *fakeContainer {
	f.Helper()
	if _, err := f.Create(f.Context(), &taskapi.CreateTaskRequest{ID: id, Bundle: f.bundle}); err != nil {
		f.Fatal(err)
	}
	sandbox := f.fake.sandboxes[0]
	sandbox.mu.Lock()
	defer sandbox.mu.Unlock()
	return sandbox.containers[id]
}

func (f *fixture) start(id, execID string) {
	f.Helper()
	if _, err := f.Start(f.Context(), &taskapi.StartRequest{ID: id, ExecID: execID}); err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) exec(id, execID string) {
	f.Helper()
	if _, err := f.Exec(f.Context(), &taskapi.ExecProcessRequest{ID: id, ExecID: execID}); err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) remove(id, execID string) *taskapi.DeleteResponse {
	f.Helper()
	response, err := f.Delete(f.Context(), &taskapi.DeleteRequest{ID: id, ExecID: execID})
	if err != nil {
		f.Fatal(err)
	}
	return response
}

func (f *fixture) expectEvents(want ...string) {
	f.Helper()
	if got := f.events.await(f.T, len(want)); !slices.Equal(got, want) {
		f.Fatalf("events\n got %q\nwant %q", got, want)
	}
}
