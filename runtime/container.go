package runtime

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/runtime/anchor"
	"github.com/limpet-run/limpet/runtime/oci"
)

// deleteDrain is how long Delete waits for output that is still on its way; after that nobody is taken to read it. It is what
// containerd's own shim grants.
const deleteDrain = 10 * time.Second

// ContainerOptions says what container to make.
type ContainerOptions struct {
	ID     string
	Bundle string // directory of the OCI bundle
	// Rootfs are mounted on the bundle's rootfs directory. None: the root directory that the bundle's configuration names is used.
	Rootfs []mount.Mount
	// GuestRootfs is a root directory that is in the guest, below protocol.OverlaysDir, in place of one of the host. Empty: it is not.
	GuestRootfs string
	IO          IO // of the init process
}

// ExecOptions says what process to add to a container.
type ExecOptions struct {
	ID   string
	Spec []byte // the OCI process, as JSON
	IO   IO
}

// Pid is a process of a container as the host sees it.
type Pid struct {
	PID    uint32 // the container's anchor: the guest's numbers mean nothing here
	ExecID string // empty for init
}

// Container is one container of a sandbox. Its methods are safe for concurrent use.
type Container struct {
	sandbox *Sandbox
	id      string
	bundle  string
	spec    *specs.Spec // the bundle's
	plan    *oci.Plan
	init    *Process
	anchor  *anchor.Anchor // set before the container is active
	log     *slog.Logger
	undo    undo
	first   bool // of the sandbox: the sandbox's network is this container's

	resolvConf  *containerResolvConf // nil: as its configuration has it
	guestRootfs string               // see ContainerOptions

	updating chan struct{} // held while its limits are changed

	mu        sync.Mutex // guards also the states of the container's processes
	life      lifecycle[containerState]
	execs     map[string]*Process
	resources *specs.LinuxResources // its limits as the host knows them
	lastStats *Stats
}

// CreateContainer makes a container, whose init process is not yet started. On error everything is undone.
func (s *Sandbox) CreateContainer(ctx context.Context, options ContainerOptions) (*Container, error) {
	c, err := s.mountContainer(ctx, options)
	if err != nil {
		return nil, err
	}
	return c.finish(ctx, c.stand, c.show)
}

// planContainer makes the container as far as nothing is changed by it, and claims its identifier.
func (s *Sandbox) planContainer(options ContainerOptions) (*Container, error) {
	if err := checkID(options.ID); err != nil {
		return nil, err
	}
	spec, err := oci.Load(options.Bundle)
	if err != nil {
		return nil, err
	}
	resolvConf, err := s.guestResolvConf(spec, options)
	if err != nil {
		return nil, err
	}
	plan, err := oci.NewPlan(spec, oci.Options{
		ContainerID: options.ID, Bundle: options.Bundle, GuestDir: guestDir(options.ID), HasMountsBelow: hasMountsBelow, Owner: s.owner,
		Pod: s.podPlan(), PodFiles: s.podFiles(), Tmpfs: tmpfsAt, Files: resolvConf.mounts(),
	})
	if err != nil {
		return nil, err
	}
	plan.Spec.Process.Terminal = options.IO.Terminal
	c := &Container{
		sandbox: s, id: options.ID, bundle: options.Bundle, spec: spec, plan: plan, resolvConf: resolvConf,
		log:   s.log.With("container", options.ID),
		life:  lifecycle[containerState]{containerCreating, containerMoves},
		execs: map[string]*Process{},

		guestRootfs: options.GuestRootfs,

		updating: make(chan struct{}, 1), resources: spec.Linux.Resources,
	}
	c.init = newProcess(c, "", plan.Spec.Process, options.IO)
	if err := s.claimContainer(c); err != nil {
		return nil, err
	}
	if len(plan.Dropped) > 0 {
		c.log.Warn("parts of the container's configuration mean nothing in a VM", "dropped", plan.Dropped)
	}
	return c, nil
}

// Init is the container's first process.
func (c *Container) Init() *Process { return c.init }

// made tells whether the container has been created and not been deleted.
func (c *Container) made() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.life.in(containerCreating, containerDeleted)
}

// Exec adds a process to a running container, to be started with Start. The identifier must be new: ErrAlreadyExists. A container
// that is not running, or paused, is an ErrFailedPrecondition.
func (c *Container) Exec(_ context.Context, options ExecOptions) (_ *Process, err error) {
	defer func() {
		if err != nil {
			options.IO.close()
			err = fmt.Errorf("exec %s in container %s: %w", options.ID, c.id, err)
		}
	}()
	if err := checkID(options.ID); err != nil {
		return nil, err
	}
	var spec specs.Process
	if err := json.Unmarshal(options.Spec, &spec); err != nil {
		return nil, fmt.Errorf("its process is broken: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if len(spec.Args) == 0 {
		return nil, fmt.Errorf("its process names no command (args): %w", errdefs.ErrInvalidArgument)
	}
	oci.TranslateProcess(&spec)
	spec.Terminal = options.IO.Terminal
	p := newProcess(c, options.ID, &spec, options.IO)
	if err := c.claimExec(p); err != nil {
		return nil, err
	}
	if !c.sandbox.register(p) {
		c.removeExec(p)
		return nil, c.sandbox.whyLost()
	}
	return p, nil
}

func (c *Container) claimExec(p *Process) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.execs[p.id] != nil {
		return errdefs.ErrAlreadyExists
	}
	if err := c.takesExecs(); err != nil {
		return err
	}
	c.execs[p.id] = p
	return nil
}

// takesExecs tells why a process cannot be added to the container now. The caller holds the lock.
func (c *Container) takesExecs() error {
	if c.life.state != containerActive {
		return fmt.Errorf("the container is %s: %w", c.life.state, errdefs.ErrFailedPrecondition)
	}
	if c.init.life.state != processRunning || c.init.ending {
		return fmt.Errorf("the container is not running: %w", errdefs.ErrFailedPrecondition)
	}
	return nil
}

func (c *Container) removeExec(p *Process) {
	c.mu.Lock()
	delete(c.execs, p.id)
	c.mu.Unlock()
	c.sandbox.forget(nil, p)
}

// Pids lists the processes that the host started and that have not ended, and init until it is deleted: a containerd that is started
// again takes a shim without any for one that was never used, and would end it, and an exit that nobody has seen yet with it. It does
// not ask the guest.
func (c *Container) Pids() []Pid {
	c.mu.Lock()
	defer c.mu.Unlock()
	var pids []Pid
	if c.init.life.state != processDeleted {
		pids = append(pids, Pid{PID: uint32(c.init.PID())})
	}
	for id, p := range c.execs {
		if p.life.in(processStarting, processRunning) {
			pids = append(pids, Pid{PID: uint32(p.PID()), ExecID: id})
		}
	}
	return pids
}

// Pause freezes every process of a running container.
func (c *Container) Pause(ctx context.Context) error {
	c.mu.Lock()
	err := c.takesExecs()
	c.mu.Unlock()
	if err != nil {
		return fmt.Errorf("pause container %s: %w", c.id, err)
	}
	return c.change(ctx, "pause", protocol.Pause{ContainerID: c.id}, containerPaused)
}

// Resume lets a paused container go on.
func (c *Container) Resume(ctx context.Context) error {
	c.mu.Lock()
	state := c.life.state
	c.mu.Unlock()
	if state != containerPaused {
		return fmt.Errorf("resume container %s: it is %s: %w", c.id, state, errdefs.ErrFailedPrecondition)
	}
	return c.change(ctx, "resume", protocol.Resume{ContainerID: c.id}, containerActive)
}

func (c *Container) change(ctx context.Context, what string, message protocol.HostMessage, to containerState) error {
	if _, err := c.sandbox.call(ctx, callTimeout, message); err != nil {
		return fmt.Errorf("%s container %s: %w", what, c.id, err)
	}
	c.mu.Lock()
	err := c.life.move(to)
	c.mu.Unlock()
	if err != nil {
		return fmt.Errorf("%s container %s: it %w", what, c.id, err)
	}
	c.note()
	return nil
}

// Delete removes a container whose init has ended or was never started, and returns how it ended. While it runs it is an
// ErrFailedPrecondition; after an error Delete may be called again to try what failed; once deleted it is an ErrNotFound.
func (c *Container) Delete(ctx context.Context) (ExitStatus, error) {
	times := newTrace()
	execs, err := c.claimDelete()
	if err != nil {
		return ExitStatus{}, fmt.Errorf("delete container %s: %w", c.id, err)
	}
	done := times.stage("output")
	c.init.streams.drain(ctx, c.sandbox.drainLimit(deleteDrain), true)
	for _, p := range append(execs, c.init) {
		p.streams.close()
	}
	done()
	err = c.undo.run(ctx, times)
	if err == nil {
		c.sandbox.keep(PartDelete, times)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.life.mustMove(containerActive)
		return ExitStatus{}, fmt.Errorf("delete container %s: %w", c.id, err)
	}
	c.life.mustMove(containerDeleted)
	c.init.life.mustMove(processDeleted)
	clear(c.execs)
	if c.sandbox.pod != nil && c.lastStats != nil {
		c.sandbox.pod.remember(*c.lastStats)
	}
	c.sandbox.forget(c, append(execs, c.init)...)
	return c.init.exit, nil
}

// claimDelete makes sure that the container can be deleted, and that nothing begins in it any more. A process that was never
// started has then ended as one that was killed. It returns the execs that are still there.
func (c *Container) claimDelete() ([]*Process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.life.state == containerDeleted:
		return nil, errdefs.ErrNotFound
	case c.init.life.in(processStarting, processRunning):
		return nil, fmt.Errorf("its init process is %s: %w", c.init.life.state, errdefs.ErrFailedPrecondition)
	}
	var execs []*Process
	for id, p := range c.execs {
		if p.life.in(processStarting, processRunning) {
			return nil, fmt.Errorf("its exec %s is %s: %w", id, p.life.state, errdefs.ErrFailedPrecondition)
		}
		execs = append(execs, p)
	}
	if err := c.life.move(containerDeleting); err != nil {
		return nil, fmt.Errorf("it %w", err)
	}
	for _, p := range append(execs, c.init) {
		if p.life.state == processCreated {
			p.stop(killedStatus())
		}
	}
	return execs, nil
}

// deleting tells whether a Delete of the container is under way.
func (c *Container) deleting() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.life.state == containerDeleting
}

// checkID makes sure that an identifier can be a file's name.
func checkID(id string) error {
	const maxID = 255 // the longest name of a file on Linux
	if id == "" || id == "." || id == ".." || len(id) > maxID {
		return fmt.Errorf("identifier %q: it must have 1 to %d characters: %w", id, maxID, errdefs.ErrInvalidArgument)
	}
	for _, r := range id {
		if r == '/' || r < ' ' || r == 0x7f {
			return fmt.Errorf("identifier %q: %q cannot be part of it: %w", id, r, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}
