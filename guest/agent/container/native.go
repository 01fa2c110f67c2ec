package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/agent/reaper"
)

// native starts a process in a running container without another program: a thread of the agent goes into the container's namespaces, takes
// on what the specification says, and forks. It costs a tenth of what crun costs, and does less: canNative tells for what it is enough.
type native struct {
	reaper  *reaper.Reaper
	general starter // for what turns out not to work
}

// sysPtrace is CAP_SYS_PTRACE's number.
const sysPtrace = 19

// canNative tells whether a process of a container can be started by native: whether everything that the specification asks for is
// something that native does. That it is for root only is because a traced process gains nothing from set-user-id programs (see
// enter), and root gains nothing from them anyway. A container that may trace is left alone because a process on its way into it still
// has the agent's memory.
func canNative(container *specification, process *specs.Process) bool {
	sets, ok := capabilitySetsOf(process.Capabilities)
	inits, initOK := capabilitySetsOf(container.Process.Capabilities)
	linux := container.Linux
	return ok && initOK && !sets.bounding.has(sysPtrace) && !inits.bounding.has(sysPtrace) &&
		process.User.UID == 0 && knownRlimits(process.Rlimits) &&
		process.ApparmorProfile == "" && process.SelinuxLabel == "" && process.Scheduler == nil && process.IOPriority == nil &&
		process.ExecCPUAffinity == nil &&
		container.hasNamespace(specs.PIDNamespace) && container.hasNamespace(specs.MountNamespace) &&
		!container.hasNamespace(specs.UserNamespace) && !container.hasNamespace(specs.TimeNamespace) &&
		linux.Seccomp == nil && linux.Personality == nil
}

// start starts an exec. An init's container does not exist yet: it is not for native.
func (n *native) start(ctx context.Context, l launch) (launched, error) {
	started, err := n.fork(ctx, l)
	if errors.Is(err, unix.EBUSY) {
		// The container has made groups of its own below its group, which then takes no processes. crun finds another.
		return n.general.start(ctx, l)
	}
	if err != nil {
		return launched{}, fmt.Errorf("start %s: %w", l.process.Args[0], err)
	}
	return started, nil
}

// fork starts the process with a thread of its own.
func (n *native) fork(ctx context.Context, l launch) (launched, error) {
	init, err := l.container.init.child.Pidfd()
	if err != nil {
		return launched{}, fmt.Errorf("the container's init: %w", err)
	}
	defer unix.Close(init)
	group, err := os.Open(string(l.container.cgroup))
	if err != nil {
		return launched{}, err
	}
	defer group.Close()

	hold := n.reaper.Hold()
	defer hold.Release()
	e := &entry{launch: l, init: init, cgroup: int(group.Fd()), forked: make(chan error, 1), proceed: make(chan struct{})}
	defer close(e.proceed)
	go e.run()
	if err := <-e.forked; err != nil {
		return launched{}, err
	}
	started := launched{child: hold.Claim(e.pid), console: e.console}
	if e.traced {
		if err := limitStopped(ctx, started.child, l.process); err != nil {
			_ = started.child.Signal(unix.SIGKILL)
			if e.console != nil {
				e.console.Close()
			}
			return launched{}, err
		}
	}
	return started, nil
}

// limitStopped sets the limits of a traced process before its first instruction.
func limitStopped(ctx context.Context, child *reaper.Child, process *specs.Process) error {
	select {
	case <-child.Stops():
		return limitProcess(child.Pid(), process)
	case <-child.Done():
		return nil // killed before it began
	case <-ctx.Done():
		return ctx.Err()
	}
}

// starterFor chooses how an exec is started.
func (s *Set) starterFor(c *Container, process *specs.Process) starter {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.space.mayTrace || !canNative(c.spec, process) {
		c.space.mayTrace = c.space.mayTrace || traces(process)
		return s.crun
	}
	return s.native
}

// see notes whose processes the container is going to see, and that its first process may trace them.
func (c *Container) see(space *pidSpace, init *specs.Process) {
	c.set.mu.Lock()
	defer c.set.mu.Unlock()
	c.space = space
	space.mayTrace = space.mayTrace || traces(init)
}

// traces tells whether a process can get CAP_SYS_PTRACE. What it gets if nothing is said is the OCI runtime's choice.
func traces(process *specs.Process) bool {
	return process.Capabilities == nil || slices.Contains(process.Capabilities.Bounding, "CAP_SYS_PTRACE")
}
