package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/internal/printable"
	"github.com/limpet-run/limpet/runtime/config"
	"github.com/limpet-run/limpet/runtime/oci"
)

const (
	// callTimeout is how long the agent may take for what it does at once: under emulation on a busy host it takes a tenth of a
	// second.
	callTimeout = 10 * time.Second
	// undoTimeout is how long it may take to take back a failed start: no step of it waits for the guest for longer than
	// callTimeout.
	undoTimeout = 15 * time.Second
	// consoleLines is how many lines of the guest's console an error shows: a kernel's panic is in the last few. maxConsoleLine
	// is how many bytes of each.
	consoleLines   = 20
	maxConsoleLine = 200
)

// errVMLost is what calls get once the machine has ended.
var errVMLost = fmt.Errorf("the sandbox's VM has ended: %w", errdefs.ErrUnavailable)

// Observer is told what nobody asked for. Its methods do not block; no lock is held while they are called.
type Observer interface {
	// OOM says that the guest ran out of memory in a container. It comes before the end of the process that was killed for it.
	OOM(containerID string)
}

// Sandbox is one virtual machine with the containers in it. Its methods are safe for concurrent use. Its owner must Stop it.
type Sandbox struct {
	id        string
	namespace string
	observer  Observer
	log       *slog.Logger
	dir       *stateDir
	cgroup    hypervisor.Cgroup // of the machine, its daemons and the anchors
	pod       *Pod              // nil: it is none
	machine   Machine           // nil before it is started
	guest     Guest
	undo      undo
	parked    undo       // of a machine that was there before the sandbox: it goes on top of undo
	first     *Container // see First

	lost        chan struct{} // closed when the machine has ended
	lastRequest atomic.Uint64
	lastCommand atomic.Uint64 // of visitors
	visited     atomic.Bool   // somebody has come by a door that leads into the guest
	rehearsing  atomic.Bool   // its container is not its last
	began       time.Time
	template    string // that the machine is a clone of; empty: it has booted

	egress   *egressGuard // nil: everything may be reached
	sshAgent sync.Mutex   // held while a container has an ssh-agent
	frame    frame
	resizing chan struct{}             // held while the machine is resized
	volumes  sharing[string, struct{}] // in the guest's memory, by name; they stay
	binds    sharing[bindKey, string]  // paths in the share; they stay
	lastBind atomic.Uint64
	disks    sharing[diskKey, pluggedDisk]
	lastDisk atomic.Uint64
	size     size // the machine's, by resizing

	mu         sync.Mutex
	life       lifecycle[sandboxState]
	why        error                 // of the machine's end
	stopping   chan struct{}         // closed when the Stop under way has ended
	containers map[string]*Container // also those still being created
	claimed    bool                  // there was a container
	unremoved  []string              // identifiers of containers that the guest was not told to remove
	processes  map[uint64]*Process   // by request id
	demands    map[*Container]demand // what each asks of the machine
	parts      []TracePart           // of the trace; replaced and not changed
}

// NewSandbox makes a sandbox whose machine is up and whose agent is ready for containers. It has no container yet, or that of
// SandboxOptions.First. On error everything is undone, and the error of a machine that does not come up shows the last lines of the
// guest's console if there are any.
func NewSandbox(ctx context.Context, options SandboxOptions) (*Sandbox, error) {
	return newSandbox(ctx, options, startQEMU)
}

func newSandbox(ctx context.Context, options SandboxOptions, start platform) (*Sandbox, error) {
	times := newTrace()
	needs, err := options.needs()
	if err != nil {
		options.Spare.discard()
		return nil, fmt.Errorf("start sandbox %s: %w", options.ID, err)
	}
	if options.Spare != nil {
		s, err := options.Spare.become(ctx, options, needs, times)
		if err == nil {
			return s, nil
		}
		options.Logger.Warn("the machine that waited is not the sandbox's", "sandbox", options.ID, "error", err)
		if ctx.Err() != nil {
			return nil, err
		}
	}
	s := blankSandbox(options.Logger.With("sandbox", options.ID))
	if err := s.begin(ctx, options, needs, start, times); err != nil {
		return nil, err
	}
	return s, nil
}

// blankSandbox is a sandbox that has nothing yet, not even an identity.
func blankSandbox(log *slog.Logger) *Sandbox {
	return &Sandbox{
		log:        log,
		lost:       make(chan struct{}),
		life:       lifecycle[sandboxState]{sandboxCreating, sandboxMoves},
		containers: map[string]*Container{},
		processes:  map[uint64]*Process{},
		demands:    map[*Container]demand{},
		resizing:   make(chan struct{}, 1),
	}
}

// begin gives the sandbox its identity and makes it, with its first container if it is to have one. On error everything is undone.
func (s *Sandbox) begin(ctx context.Context, options SandboxOptions, needs needs, start platform, times *trace) error {
	s.identify(options, times.began)
	if err := s.make(ctx, options, needs, start, times); err != nil {
		return s.abandon(ctx, err)
	}
	return nil
}

// identify makes the sandbox the one that the options mean.
func (s *Sandbox) identify(options SandboxOptions, began time.Time) {
	s.mu.Lock()
	s.id, s.namespace, s.observer, s.began, s.parts = options.ID, options.Namespace, options.Observer, began, nil
	var before *trace
	if len(options.Before) > 0 {
		before = &trace{began: options.Before[0].Began, ended: began, stages: options.Before}
		s.began = before.began
	}
	s.mu.Unlock()
	if before != nil {
		s.addPart(PartShim, before)
	}
}

// abandon undoes everything of a sandbox that does not come up.
func (s *Sandbox) abandon(ctx context.Context, why error) error {
	s.fail(why)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	return errors.Join(why, s.undo.run(ctx, newTrace()))
}

// make does the steps of NewSandbox. What the host does for the first container it does while the machine comes up. A machine that is there
// already, a spare's, is not started.
func (s *Sandbox) make(ctx context.Context, options SandboxOptions, needs needs, start platform, times *trace) error {
	defer s.undo.take(&s.parked) // if it has not come so far
	plan, err := s.prepare(ctx, options, needs, times)
	if err != nil {
		return fmt.Errorf("start sandbox %s: %w", s.id, err)
	}
	if plan.storage != nil {
		defer plan.storage.Close()
	}
	var leave func()
	defer func() { // once the first container is made, too
		if leave != nil {
			leave()
		}
	}()
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		if leave, err = s.awaitTurn(groupCtx, plan); err != nil {
			return fmt.Errorf("start sandbox %s: %w", s.id, err)
		}
		if err := s.start(groupCtx, needs.pod, plan, start); err != nil {
			return fmt.Errorf("start sandbox %s: %w%s", s.id, err, s.lastWords())
		}
		times.log(ctx, s.log, "sandbox started")
		s.keep(PartSandbox, times)
		return nil
	})
	var first *newContainer
	var waited func()
	if options.First != nil && needs.pod == nil {
		group.Go(func() (err error) {
			if first, err = s.mountContainer(ctx, *options.First); err != nil {
				return err
			}
			if err := first.stand(ctx); err != nil {
				return fmt.Errorf("create container %s: %w", first.id, err)
			}
			waited = first.times.stage("machine")
			return nil
		})
	}
	err = group.Wait()
	switch {
	case first == nil:
	case err == nil:
		waited()
		s.first, err = first.finish(ctx, first.show)
	default:
		err = errors.Join(err, first.abandon(ctx))
	}
	return err
}

// First is the container of SandboxOptions.First, nil if there was none. The sandbox of a pod is made without it.
func (s *Sandbox) First() *Container { return s.first }

// prepare makes what a sandbox has before its machine, and plans that.
func (s *Sandbox) prepare(ctx context.Context, options SandboxOptions, needs needs, times *trace) (plan machinePlan, err error) {
	if s.machine == nil {
		s.frame = needs.frame
		s.size.vcpus = s.frame.vcpus
	}
	done := times.stage("state")
	if err := s.takeDir(ctx, needs.config.StateDir, record{
		Namespace: s.namespace, ID: s.id, Bundle: options.Bundle, Size: s.frame.record(s.size), Containers: map[string]containerRecord{},
		Began: s.began,
	}); err != nil {
		return plan, err
	}
	done()
	done = times.stage("cgroup")
	if err := s.makeCgroup(needs.cgroupsPath); err != nil {
		return plan, err
	}
	s.undo.take(&s.parked) // a machine ends before its cgroup
	done()
	if s.egress, err = newEgressGuard(needs.config.Egress, s.log); err != nil {
		return plan, err
	}
	storage, err := openStorage(needs.config.Storage)
	if err != nil {
		return plan, err
	}
	plan = s.plan(needs, options.Logger, times)
	plan.storage = storage
	return plan, nil
}

// start brings the machine up and lets others reach it.
func (s *Sandbox) start(ctx context.Context, pod *oci.Pod, plan machinePlan, start platform) error {
	ctx, cancel := withBootTimeout(ctx, plan.config)
	defer cancel()
	if err := s.bring(ctx, pod, plan, start); err != nil {
		return because(ctx, err)
	}
	if err := s.resolveNames(ctx, plan.times); err != nil {
		return err
	}
	if err := s.openDoors(); err != nil {
		return err
	}
	return s.run()
}

// takeDir makes the state directory, or makes the one that is there the sandbox's.
func (s *Sandbox) takeDir(ctx context.Context, root string, first record) (err error) {
	if s.dir != nil {
		return s.dir.become(ctx, first)
	}
	if s.dir, err = createStateDir(ctx, root, first); err != nil {
		return err
	}
	s.undo.push("remove the state directory", s.dir.remove)
	return nil
}

// plan is what a platform needs to know to start the machine.
func (s *Sandbox) plan(needs needs, logger *slog.Logger, times *trace) machinePlan {
	return machinePlan{
		name: s.id, config: needs.config, frame: needs.frame, bare: needs.bare, cgroup: s.cgroup, dir: s.dir, events: events{s}, log: s.log,
		logger: logger, times: times, disks: needs.disks, data: s.guestData(needs.config.GuestData),
	}
}

// withBootTimeout bounds what a machine may take to come up.
func withBootTimeout(ctx context.Context, configuration config.Config) (context.Context, context.CancelFunc) {
	boot := time.Duration(configuration.Timeouts.Boot)
	return context.WithTimeoutCause(ctx, boot, fmt.Errorf("the agent was not ready within %s (timeouts.boot): "+
		"the guest did not come up, or this host is too slow for that time", boot))
}

// run lets the sandbox run, unless its machine has ended meanwhile.
func (s *Sandbox) run() error {
	s.mu.Lock()
	err := s.life.move(sandboxRunning)
	s.mu.Unlock()
	if err != nil {
		return s.whyLost()
	}
	return nil
}

// bring brings the machine up, with the pod's part if it is a pod's.
func (s *Sandbox) bring(ctx context.Context, pod *oci.Pod, plan machinePlan, start platform) (err error) {
	if pod == nil {
		return s.boot(ctx, plan, start)
	}
	done := plan.times.stage("pod")
	if s.pod, err = newPod(ctx, s, pod); err != nil {
		return err
	}
	if plan.nics, err = s.pod.attach(); err != nil {
		return err
	}
	defer closeTaps(plan.nics)
	done()
	if err := s.boot(ctx, plan, start); err != nil {
		return err
	}
	if err := s.pod.setUp(ctx, plan.times); err != nil {
		return err
	}
	go s.pod.follow()
	return nil
}

// boot starts the machine and waits until its agent is ready or the machine has ended. One that is there gets what is the sandbox's.
func (s *Sandbox) boot(ctx context.Context, plan machinePlan, start platform) error {
	if s.machine != nil {
		return s.rouse(ctx, plan)
	}
	return s.bootOn(ctx, plan, start, &s.undo)
}

// bootOn is boot of a machine that is not there; undo gets what takes it back.
func (s *Sandbox) bootOn(ctx context.Context, plan machinePlan, start platform, undo *undo) error {
	started, err := start(ctx, plan, undo)
	if err != nil {
		return err
	}
	s.machine, s.guest, s.frame = started.machine, started.guest, started.frame
	s.size.vcpus, s.template = s.frame.vcpus, started.template
	if err := s.dir.update(func(record *record) {
		record.Size, record.Template = s.frame.record(s.size), s.template
	}); err != nil {
		return err
	}
	go s.watch()
	began := time.Now()
	if _, err := s.guest.WaitReady(ctx); err != nil {
		if s.isLost() { // watch has closed the session
			err = s.whyLost()
		}
		return s.machine.Accelerator().Advise(fmt.Errorf("wait for the agent: %w", err))
	}
	go s.guard()
	if s.template == "" { // a clone has waked by now
		plan.times.greeting(StageAgent, began, s.guest.Greeted())
	}
	defer plan.times.stage("clock")()
	s.settleClock(ctx)
	return nil
}

// watch waits for the machine's end. Every process in it ends with it.
func (s *Sandbox) watch() {
	err := s.machine.Wait(context.Background()) // it ends at the latest when the sandbox is stopped
	s.fail(err)
	close(s.lost)
	s.mu.Lock()
	processes := slices.Collect(maps.Values(s.processes))
	s.mu.Unlock()
	for _, process := range processes {
		process.vmLost()
	}
	if s.pod != nil {
		s.pod.end(lostStatus())
	}
	_ = s.guest.Close() // ends the calls in flight
}

// guard ends a machine whose session is over: nobody would ever tell what becomes of the processes in it.
func (s *Sandbox) guard() {
	select {
	case <-s.guest.Done():
	case <-s.lost:
		return
	}
	s.fail(errors.New("the session with its agent is over"))
	ctx, cancel := context.WithTimeout(context.Background(), undoTimeout)
	defer cancel()
	if err := s.machine.Stop(ctx); err != nil {
		s.log.Error("a machine without a session does not end", "error", err)
	}
}

// drainLimit is how long to wait for output that is on its way: the given time, or less if there is no guest any more.
func (s *Sandbox) drainLimit(limit time.Duration) time.Duration {
	if s.isLost() {
		return lostDrain
	}
	return limit
}

// fail notes that the machine did not come up or has ended; during a Stop that is as it should be.
func (s *Sandbox) fail(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life.in(sandboxCreating, sandboxParked, sandboxRunning) {
		s.life.mustMove(sandboxFailed)
		s.why = why
		s.log.Error("sandbox failed", "error", why)
	}
}

// lastWords are the last lines of the guest's console, for an error; empty if there are none. The guest could write anything
// there. A machine that has ended has said them in its own error.
func (s *Sandbox) lastWords() string {
	if s.machine == nil || s.isLost() {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(s.machine.Console()), "\n")
	if len(lines) == 1 && lines[0] == "" {
		return ""
	}
	text := "\nlast lines of the guest's console:"
	for _, line := range lines[max(0, len(lines)-consoleLines):] {
		text += "\n\t" + printable.Short(strings.TrimSpace(line), maxConsoleLine)
	}
	return text
}

// whyLost says that the machine has ended and why.
func (s *Sandbox) whyLost() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.why != nil {
		return fmt.Errorf("%w: %w", errVMLost, s.why)
	}
	return errVMLost
}

// isLost tells whether the machine has ended.
func (s *Sandbox) isLost() bool {
	select {
	case <-s.lost:
		return true
	default:
		return false
	}
}

// call sends a message to the agent and returns its answer. Once the machine has ended it returns errVMLost.
func (s *Sandbox) call(ctx context.Context, limit time.Duration, message protocol.HostMessage) (protocol.GuestMessage, error) {
	if s.isLost() {
		return nil, s.whyLost()
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	answer, err := s.guest.Call(ctx, message)
	if err != nil && s.isLost() {
		return nil, s.whyLost()
	}
	return answer, err
}

// ID is the sandbox's identifier.
func (s *Sandbox) ID() string { return s.id }

// Template is the identifier of the template that the sandbox is a clone of; empty: it has booted.
func (s *Sandbox) Template() string { return s.template }

// Container returns the container with that identifier, or an ErrNotFound.
func (s *Sandbox) Container(id string) (*Container, error) {
	s.mu.Lock()
	container, ok := s.containers[id]
	s.mu.Unlock()
	if !ok || !container.made() {
		return nil, fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound)
	}
	return container, nil
}

// claimContainer takes a container's identifier, or returns an ErrAlreadyExists.
func (s *Sandbox) claimContainer(c *Container) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.life.in(sandboxCreating, sandboxRunning) { // its first container is made with it
		return fmt.Errorf("sandbox %s is %s: %w", s.id, s.life.state, errdefs.ErrUnavailable)
	}
	if s.containers[c.id] != nil {
		return fmt.Errorf("container %s: %w", c.id, errdefs.ErrAlreadyExists)
	}
	c.first = !s.claimed && s.pod == nil
	s.claimed = true
	s.containers[c.id] = c
	s.processes[c.init.request] = c.init
	return nil
}

// list returns the containers that there are.
func (s *Sandbox) list() []*Container {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.containers))
}

// forget gives up identifiers of a container and of processes.
func (s *Sandbox) forget(container *Container, processes ...*Process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, process := range processes {
		delete(s.processes, process.request)
	}
	if container != nil {
		delete(s.containers, container.id)
	}
}

// register makes a process known to what the agent says. It tells whether the machine is still there.
func (s *Sandbox) register(process *Process) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.processes[process.request] = process
	return s.life.state == sandboxRunning
}

// process returns the process that the agent means, or nil.
func (s *Sandbox) process(request uint64) *Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.processes[request]
}
