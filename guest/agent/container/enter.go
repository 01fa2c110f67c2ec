package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// namespaces are those of the init that a process joins. One that the container does not have of its own is the guest's, in which the
// thread is anyway. The PID namespace is the process's own business.
const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP

// enter forks a process into a running container.
func (w *way) enter(ctx context.Context) error {
	init, err := w.container.init.child.Pidfd()
	if err != nil {
		return fmt.Errorf("the container's init: %w", err)
	}
	defer unix.Close(init)
	proc, err := os.Open("/proc")
	if err != nil {
		return err
	}
	defer proc.Close()
	group, err := os.Open(w.native.cgroupRoot)
	if err != nil {
		return err
	}
	defer group.Close()
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("leave the agent's root: %w", err)
	}
	if err := unix.Setns(init, namespaces); err != nil {
		return fmt.Errorf("join the container's namespaces: %w", err)
	}
	files, tty, err := w.streams(func() (*terminal, *os.File, error) { return openTerminal(unix.AT_FDCWD, "/dev/ptmx") })
	if err != nil {
		return err
	}
	if tty != nil {
		defer tty.Close()
	}
	w.plan.Streams(files, init)
	scored := w.process.OOMScoreAdj != nil
	if scored {
		w.plan.Hold()
	}
	w.joinPIDs(init)
	if w.container.native != nil && w.container.native.filter != nil && !w.process.NoNewPrivileges {
		w.divide() // a filter that has to come before the end of privileges may forbid it
		w.session()
		w.identity()
	} else {
		w.identity()
		w.divide()
		w.session()
	}
	w.exec()
	pid, err := w.startIn(group, proc)
	if err != nil {
		return err
	}
	w.claim(pid)
	if scored {
		if err := w.scoreHeld(ctx, proc); err != nil {
			return err
		}
	}
	err = w.plan.Await(ctx)
	w.claimDivided()
	return err
}

// scoreHeld sets the out-of-memory score of the process, which waits for that. proc is a directory with the processes by their ids.
func (w *way) scoreHeld(ctx context.Context, proc *os.File) error {
	if err := w.plan.AwaitHold(ctx); err != nil {
		return err
	}
	if err := setScore(proc, w.child.Pid(), w.process); err != nil {
		return err
	}
	return w.plan.Proceed()
}

// startIn starts the process in the container's control group. If that takes none, because the container has made groups of its own below
// it, the process is started in the one that the container's init is in.
func (w *way) startIn(groups, proc *os.File) (pid int, err error) {
	pid, err = w.startInGroup(groups, cgroupName(w.container.id))
	if !errors.Is(err, unix.EBUSY) {
		return pid, err
	}
	inner, err := groupNameOf(proc, w.container.init.child.Pid())
	if err != nil {
		return 0, fmt.Errorf("the container's control group: %w", err)
	}
	return w.startInGroup(groups, inner)
}

func (w *way) startInGroup(groups *os.File, name string) (pid int, err error) {
	group, err := unix.Openat(int(groups.Fd()), name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("the container's control group: %w", err)
	}
	defer unix.Close(group)
	return w.plan.Start(group, 0)
}

// groupNameOf is the name of the control group that a process is in, below the root. proc is a directory with the processes by their ids.
func groupNameOf(proc *os.File, pid int) (string, error) {
	fd, err := unix.Openat(int(proc.Fd()), fmt.Sprintf("%d/cgroup", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	file := os.NewFile(uintptr(fd), "cgroup")
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, unix.PathMax))
	if err != nil {
		return "", err
	}
	name, ok := strings.CutPrefix(strings.TrimSpace(string(content)), "0::/") // the one hierarchy of version 2
	if !ok {
		return "", fmt.Errorf("process %d is in %q", pid, content)
	}
	return name, nil
}

// joinPIDs has what the process divides into be in a PID namespace that there is.
func (w *way) joinPIDs(namespace int) {
	w.plan.Call("join the PID namespace", unix.SYS_SETNS, uintptr(namespace), unix.CLONE_NEWPID)
}

// divide has the process go on as another one in the PID namespace that it has joined. Nobody there has seen it before, and whoever may
// trace it finds nothing of the agent's in it.
func (w *way) divide() { w.plan.Divide(0) }
