package container

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/go-json-experiment/json"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/guest/protocol"
)

// state is where a container is in the package's drawing.
type state int

const (
	preparing state = iota
	prepared
	starting
	running
	pausing // pause or resume is under way
	paused
	stopped
	removing
)

func (s state) String() string {
	return [...]string{"being prepared", "prepared", "starting", "running", "being paused or resumed", "paused", "stopped", "being removed"}[s]
}

// maxExited is how many ended execs of a container are remembered, to be answered as ended and not as unknown.
const maxExited = 1024

// Container is a container of the sandbox.
type Container struct {
	set    *Set
	id     string
	dir    string // its bundle and what crun keeps of it, or where native makes it
	rootfs string
	shared bool // rootfs is part of the host's file share
	cgroup cgroup
	logger *slog.Logger
	// command: it is no container, but a command in the machine itself.
	command bool
	// settled is closed when it is prepared, or cannot be.
	settled chan struct{}

	// Guarded by set.mu.
	state     state
	spec      *specs.Spec
	native    *parts // what it was made of if it was started natively
	init      *Process
	processes map[uint64]*Process // those whose exit is not reported yet, and the init
	exited    []uint64            // ended execs, oldest first
	execs     int                 // execs being started
	oomKills  uint64              // reported

	absences absences // of programs that were executed in it
	homes    homes    // of its users

	oomEvents *changes // set while it runs, nil without a memory controller
}

// stateDir is where crun keeps what it knows of the container.
func (c *Container) stateDir() string { return filepath.Join(c.dir, "crun") }

// enter moves the container from a state to the next, or says why not.
func (c *Container) enter(action string, next state, from ...state) error {
	c.set.mu.Lock()
	defer c.set.mu.Unlock()
	for _, s := range from {
		if c.state == s {
			c.state = next
			return nil
		}
	}
	return fmt.Errorf("%s container %s: it is %v: %w", action, c.id, c.state, errdefs.ErrFailedPrecondition)
}

// run starts the init.
func (c *Container) run(ctx context.Context, m protocol.Run) (_ *Process, err error) {
	spec, err := parseSpec(m.Spec)
	if err != nil {
		return nil, fmt.Errorf("run container %s: %w", c.id, err)
	}
	if spec.Process.Terminal != m.Terminal {
		return nil, fmt.Errorf("run container %s: specification and message differ about a terminal: %w", c.id, errdefs.ErrInvalidArgument)
	}
	if err := c.enter("run", starting, prepared); err != nil {
		return nil, err
	}
	if err := c.set.reserve(m.RequestID, c); err != nil {
		c.enter("run", prepared, starting)
		return nil, fmt.Errorf("run container %s: %w", c.id, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.clean())
			c.set.release(m.RequestID)
			c.enter("run", prepared, starting)
		}
	}()
	if spec.Linux.Namespaces, err = c.set.join(spec.Linux.Namespaces); err != nil {
		return nil, fmt.Errorf("run container %s: %w", c.id, err)
	}
	if err := resolveUser(c.rootfs, &spec.Process.User); err != nil {
		return nil, fmt.Errorf("run container %s: %w", c.id, err)
	}
	var by starter = c.set.crun
	made := canNative(spec)
	if made != nil {
		by = c.set.native
	}
	c.logger.Debug("start the container", "native", made != nil)
	l := launch{
		container: c, requestID: m.RequestID, process: spec.Process, size: m.Size, first: &first{spec: spec, raw: m.Spec, parts: made},
	}
	p, err := c.launch(ctx, by, l, m.Streams, func(p *Process) {
		c.set.mu.Lock()
		c.state, c.spec, c.native, c.init = running, spec, made, p
		c.set.mu.Unlock()
		c.watchOOM()
	})
	if err != nil {
		return nil, fmt.Errorf("run container %s: %w", c.id, &protocol.Error{Message: err.Error(), Code: protocol.CodeStartFailed})
	}
	return p, nil
}

// exec starts one more process.
func (c *Container) exec(ctx context.Context, m protocol.Exec) (_ *Process, err error) {
	var process *specs.Process
	if err := json.Unmarshal(m.Process, &process); err != nil {
		return nil, fmt.Errorf("exec in container %s: process: %w: %w", c.id, err, errdefs.ErrInvalidArgument)
	}
	if err := checkProcess(process); err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", c.id, err)
	}
	if process.Terminal != m.TTY {
		return nil, fmt.Errorf("exec in container %s: process and message differ about a terminal: %w", c.id, errdefs.ErrInvalidArgument)
	}
	if err := c.beginExec(); err != nil {
		return nil, err
	}
	defer c.endExec()
	if err := resolveUser(c.rootfs, &process.User); err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", c.id, err)
	}
	if err := c.set.reserve(m.RequestID, c); err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", c.id, err)
	}
	defer func() {
		if err != nil {
			c.set.release(m.RequestID)
		}
	}()
	l := launch{container: c, requestID: m.RequestID, process: process, size: m.Size}
	p, err := c.launch(ctx, c.set.starterFor(c, process), l, m.Streams, func(*Process) {})
	if err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", c.id, &protocol.Error{Message: err.Error(), Code: protocol.CodeExecFailed})
	}
	return p, nil
}

// launch starts a process with a starter and follows it. started is called before anything is heard of its end.
func (c *Container) launch(ctx context.Context, by starter, l launch, streams *protocol.Streams, started func(*Process)) (*Process, error) {
	if streams == nil {
		streams = &protocol.Streams{}
	}
	if !l.process.Terminal {
		io, err := openStdio(*streams, l.process.User.UID, l.process.User.GID)
		if err != nil {
			return nil, err
		}
		l.io = io
	}
	c.set.mu.Lock()
	oomBefore := c.oomKills
	c.set.mu.Unlock()
	result, err := by.start(ctx, l)
	if err != nil {
		if l.io != nil {
			l.io.close()
		}
		return nil, err
	}
	p := &Process{
		requestID: l.requestID, container: c, init: l.first != nil, child: result.child, console: result.console, oomBefore: oomBefore,
		began:     time.Now(),
		logger:    c.logger.With("request_id", l.requestID),
		announced: make(chan struct{}), drained: make(chan struct{}), reported: make(chan struct{}),
	}
	c.set.mu.Lock()
	c.processes[l.requestID] = p
	c.set.mu.Unlock()
	started(p)
	p.follow(*streams, l.io)
	return p, nil
}

// beginExec counts an exec that is being started: while there is one, the container is neither paused nor removed.
func (c *Container) beginExec() error {
	c.set.mu.Lock()
	defer c.set.mu.Unlock()
	if c.state != running {
		return fmt.Errorf("exec in container %s: it is %v: %w", c.id, c.state, errdefs.ErrFailedPrecondition)
	}
	c.execs++
	return nil
}

func (c *Container) endExec() {
	c.set.mu.Lock()
	defer c.set.mu.Unlock()
	c.execs--
}

// ended marks the container's end with its init's, and ends what the init's namespace did not.
func (c *Container) ended() {
	c.set.mu.Lock()
	c.state = stopped
	c.set.mu.Unlock()
	if c.command {
		return // what it has left goes on
	}
	if err := c.cgroup.kill(); err != nil {
		c.logger.Warn("kill what the container left", "error", err)
	}
}

// awaitSiblings waits until the exits of the container's other processes are reported.
func (c *Container) awaitSiblings(timeout time.Duration) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for _, p := range c.siblings() {
		select {
		case <-p.reported:
		case <-timer.C:
			c.logger.Warn("a process outlives its container's init", "request_id", p.requestID)
			return
		}
	}
}

func (c *Container) siblings() []*Process {
	c.set.mu.Lock()
	defer c.set.mu.Unlock()
	var others []*Process
	for _, p := range c.processes {
		if !p.init {
			others = append(others, p)
		}
	}
	return others
}

// forget drops an exec whose exit is reported, but for its number.
func (c *Container) forget(p *Process) {
	c.set.mu.Lock()
	defer c.set.mu.Unlock()
	if p.init {
		return
	}
	delete(c.processes, p.requestID)
	c.exited = append(c.exited, p.requestID)
	if len(c.exited) > maxExited {
		delete(c.set.requests, c.exited[0])
		c.exited = c.exited[1:]
	}
}

// remove undoes a container that does not run.
func (c *Container) remove() error {
	c.set.mu.Lock()
	if c.execs > 0 || (c.state != prepared && c.state != stopped) {
		defer c.set.mu.Unlock()
		return fmt.Errorf("remove container %s: it is %v: %w", c.id, c.state, errdefs.ErrFailedPrecondition)
	}
	before := c.state
	c.state = removing
	processes := make([]*Process, 0, len(c.processes))
	for _, p := range c.processes {
		processes = append(processes, p)
	}
	c.set.mu.Unlock()
	for _, p := range processes {
		p.disconnect()
	}
	if err := c.clean(); err != nil {
		c.enter("remove", before, removing)
		return fmt.Errorf("remove container %s: %w", c.id, err)
	}
	c.unmountShared()
	c.set.mu.Lock()
	defer c.set.mu.Unlock()
	delete(c.set.containers, c.id)
	for id, owner := range c.set.requests {
		if owner == c {
			delete(c.set.requests, id)
		}
	}
	return nil
}

// clean removes what a start made: processes, control group, bundle. It is all that `crun delete` would do, at a hundredth of the cost of
// starting a program.
func (c *Container) clean() error {
	if c.oomEvents != nil {
		c.oomEvents.close()
	}
	if c.command {
		go c.removeEmpty()
		return nil
	}
	if err := c.cgroup.removeAll(); err != nil {
		return err
	}
	return os.RemoveAll(c.dir)
}

// removeEmpty removes the control group of a command once nothing runs in it any more.
func (c *Container) removeEmpty() {
	if err := c.cgroup.removeEmpty(); err != nil {
		c.logger.Warn("a command's control group is left", "error", err)
	}
}
