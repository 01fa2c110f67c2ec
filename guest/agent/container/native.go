package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/agent/fork"
	"github.com/limpet-run/limpet/guest/agent/reaper"
	"github.com/limpet-run/limpet/guest/agent/rootfs"
	"github.com/limpet-run/limpet/guest/agent/seccomp"
)

// native starts processes without another program: a thread of the agent goes to where the process is to be, or makes it, and forks. It
// costs a tenth of what crun costs, and does less: canNative tells for what it is enough.
type native struct {
	reaper     *reaper.Reaper
	cgroupRoot string
}

// canNative tells whether a container can be started by native: whether everything that its specification asks for is something that
// native does. What it is to be made of is the largest part of the answer: nil if it cannot.
func canNative(spec *specs.Spec) *parts {
	linux := spec.Linux
	if !plainNamespaces(linux) || checkPlain(spec.Process) != nil ||
		len(linux.Sysctl)+len(linux.UIDMappings)+len(linux.GIDMappings)+len(linux.NetDevices) > 0 ||
		linux.IntelRdt != nil || linux.MemoryPolicy != nil || linux.MountLabel != "" ||
		spec.Hooks != nil && len(spec.Hooks.CreateContainer)+len(spec.Hooks.StartContainer) > 0 {
		return nil
	}
	if _, err := settingsOf(linux.Resources); errdefs.IsNotImplemented(err) {
		return nil
	}
	made := &parts{}
	var err error
	if made.files, err = rootfs.New(spec); err != nil || spec.Process.Terminal && !made.files.Terminal {
		return nil
	}
	if linux.Seccomp != nil {
		if made.filter, err = seccomp.Compile(linux.Seccomp); err != nil {
			return nil
		}
	}
	return made
}

// parts are what native makes of a container's specification.
type parts struct {
	files  *rootfs.Plan
	filter *seccomp.Filter // of system calls; nil: there is none
}

// canEnter tells whether native can start a process in a container that it has not started itself.
func canEnter(container *specs.Spec, process *specs.Process) bool {
	return plainNamespaces(container.Linux) && container.Linux.Seccomp == nil && checkPlain(process) == nil
}

// plainNamespaces tells whether native can make and enter a container's namespaces, and whether all that a process has of them is
// theirs.
func plainNamespaces(linux *specs.Linux) bool {
	for _, namespace := range linux.Namespaces {
		if _, known := cloneFlags[namespace.Type]; !known {
			return false
		}
	}
	return hasNamespace(linux, specs.PIDNamespace) && hasNamespace(linux, specs.MountNamespace) && linux.Personality == nil &&
		len(linux.TimeOffsets) == 0
}

// checkPlain tells whether a process is to have only what native gives it: ErrNotImplemented if not.
func checkPlain(process *specs.Process) error {
	for _, limit := range process.Rlimits {
		if _, known := rlimits[limit.Type]; !known {
			return fmt.Errorf("limit %q: %w", limit.Type, errdefs.ErrNotImplemented)
		}
	}
	if process.ApparmorProfile != "" || process.SelinuxLabel != "" {
		return fmt.Errorf("profiles of security modules: %w", errdefs.ErrNotImplemented)
	}
	return nil
}

// starterFor chooses how a process is started in a container that runs. Of one that native has started crun knows nothing.
func (s *Set) starterFor(c *Container, process *specs.Process) starter {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.native != nil || canEnter(c.spec, process) {
		return s.native
	}
	return s.crun
}

// cloneFlags are the namespaces that native makes and joins.
var cloneFlags = map[specs.LinuxNamespaceType]uint64{
	specs.PIDNamespace: unix.CLONE_NEWPID, specs.MountNamespace: unix.CLONE_NEWNS, specs.IPCNamespace: unix.CLONE_NEWIPC,
	specs.UTSNamespace: unix.CLONE_NEWUTS, specs.CgroupNamespace: unix.CLONE_NEWCGROUP,
}

func (n *native) start(ctx context.Context, l launch) (launched, error) {
	err := checkPlain(l.process)
	var scheduled *scheduling
	if err == nil {
		scheduled, err = schedulingOf(l.process)
	}
	if err != nil {
		return launched{}, fmt.Errorf("start %s: %w", l.process.Args[0], err)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	hold := n.reaper.Hold()
	defer hold.Release()
	w := &way{launch: l, native: n, hold: hold, scheduled: scheduled, plan: fork.New(roomFor(l.process))}
	defer w.plan.Close()
	do := w.enter
	if l.first != nil {
		do = w.build
	}
	if err = onThread(func() error { return do(ctx) }); err == nil {
		return launched{child: w.child, console: w.console}, nil
	}
	if w.child != nil {
		w.end()
	}
	if w.console != nil {
		w.console.Close()
	}
	return launched{}, fmt.Errorf("start %s: %w", l.process.Args[0], w.explain(err))
}

// onThread runs a function on a thread that is never used for anything else afterwards: its goroutine ends without unlocking it.
func onThread(do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			done <- do()
			return
		}
		// The process's first thread cannot be thrown away. While it is locked here, another goroutine has another thread.
		done <- onThread(do)
		runtime.UnlockOSThread()
	}()
	return <-done
}

// way is a process's way into a container.
type way struct {
	launch
	native    *native
	hold      *reaper.Hold
	scheduled *scheduling
	plan      *fork.Plan
	child     *reaper.Child // the process, once there is one
	console   *terminal
}

// claim makes a process that was forked the way's.
func (w *way) claim(pid int) { w.child = w.hold.Claim(pid) }

// claimDivided claims the process that has taken the place of the one that was claimed, if there is one.
func (w *way) claimDivided() {
	if pid := w.plan.Divided(); pid != 0 && pid != w.child.Pid() {
		w.claim(pid)
	}
}

// end ends the process and waits until it is gone.
func (w *way) end() {
	w.kill()
	w.claimDivided() // it may have divided at the last moment
	w.kill()
}

func (w *way) kill() {
	_ = w.child.Signal(unix.SIGKILL)
	<-w.child.Done()
}

// explain says what is wrong with the program or its directory in the words of a shell.
func (w *way) explain(err error) error {
	failed, ok := errors.AsType[*fork.CallError](err)
	if !ok || !failed.Exec {
		return err
	}
	program := w.process.Args[0]
	switch {
	case failed.Errno == unix.ENOENT && !strings.Contains(program, "/"):
		return fmt.Errorf("executable file %q not found in $PATH: %w", program, failed.Errno)
	case failed.Errno == unix.ENOENT, failed.Errno == unix.ENOTDIR:
		return fmt.Errorf("executable file %q not found: %w", program, failed.Errno)
	case failed.Errno == unix.EACCES:
		return fmt.Errorf("program %q is not executable: %w", failed.Call, failed.Errno)
	}
	return fmt.Errorf("program %q: %w", failed.Call, failed.Errno)
}

// streams are the process's standard streams: a terminal of the container's, or the pipes that there are. tty is the process's end of the
// terminal, the caller's to close; nil without one.
func (w *way) streams(open func() (*terminal, *os.File, error)) (files [3]int, tty *os.File, err error) {
	if !w.process.Terminal {
		for i, file := range w.io.process {
			files[i] = int(file.Fd())
		}
		return files, nil, nil
	}
	if w.console, tty, err = newConsole(w.size, open); err != nil {
		return files, nil, err
	}
	if uid := w.process.User.UID; uid != 0 {
		if err := tty.Chown(int(uid), -1); err != nil {
			tty.Close()
			return files, nil, fmt.Errorf("give the terminal to its user: %w", err)
		}
	}
	fd := int(tty.Fd())
	return [3]int{fd, fd, fd}, tty, nil
}

// roomFor is how many bytes a process's arguments and environment are, and the paths where its program may be.
func roomFor(process *specs.Process) int {
	size, search := unix.PathMax, 0
	for _, text := range process.Args {
		size += len(text) + 1
	}
	for _, text := range process.Env {
		size += len(text) + 1
		if strings.HasPrefix(text, "PATH=") {
			search = len(text) * (1 + len(process.Args[0]))
		}
	}
	const pointer = 8
	return size + search + pointer*(len(process.Args)+len(process.Env)+4)
}

// exec has the process become its program. What the container has is looked at by the calling thread, whose root is the container's.
func (w *way) exec() {
	if w.process.NoNewPrivileges {
		w.filterCalls()
	}
	now := time.Now()
	env := withHome(w.process.Env, func() string { return w.container.homes.of(w.process.User.UID, now) })
	files := candidates(w.process.Args[0], env)
	if w.first == nil { // else nothing is known yet
		files = w.container.absences.skip(files, now)
	}
	w.plan.Exec(files, w.process.Args, env)
}
