package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/agent/rootfs"
)

// build makes a container around its first process. The thread makes the namespaces and what is in them, but for the PID namespace, where
// only the process itself can be: it mounts its proc and waits until the rest is done.
func (w *way) build(ctx context.Context) error {
	c := w.container
	staged := filepath.Join(c.dir, "proc") // where the process mounts it
	if err := os.MkdirAll(staged, 0o700); err != nil {
		return err
	}
	if err := c.cgroup.make(w.spec.Linux.Resources); err != nil {
		return fmt.Errorf("control group: %w", err)
	}
	group, err := os.Open(string(c.cgroup))
	if err != nil {
		return fmt.Errorf("control group: %w", err)
	}
	defer group.Close()
	proc, err := os.Open("/proc")
	if err != nil {
		return err
	}
	defer proc.Close()
	pids, flags, err := w.namespaces()
	if err != nil {
		return err
	}
	if pids >= 0 {
		defer unix.Close(pids)
	}
	root, err := w.files.Enter(c.rootfs)
	if err != nil {
		return err
	}
	defer root.Close()
	console, err := w.forkInit(root, staged, pids, int(group.Fd()), flags)
	if console != nil {
		defer console.Close()
	}
	if err == nil {
		err = w.plan.AwaitHold(ctx)
		w.claimDivided()
	}
	if err != nil {
		return err
	}
	if err := setScore(proc, w.child.Pid(), w.process); err != nil {
		return err
	}
	if err := w.furnish(root, rootfs.Sources{Proc: staged, Group: w.groupSource()}, console); err != nil {
		return err
	}
	w.session()
	w.identity()
	w.exec()
	if err := w.plan.Proceed(); err != nil {
		return err
	}
	return w.plan.Await(ctx)
}

// namespaces makes the container's namespaces for the thread, or joins them. pids is the PID namespace to be joined (negative: none), and
// flags are for the process.
func (w *way) namespaces() (pids int, flags uint64, err error) {
	pids = -1
	anew := uint64(unix.CLONE_FS)
	for _, namespace := range w.spec.Linux.Namespaces {
		flag := cloneFlags[namespace.Type]
		switch {
		case namespace.Path != "":
			fd, err := unix.Open(namespace.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err == nil && flag == unix.CLONE_NEWPID {
				pids = fd
				continue
			}
			if err == nil {
				err = errors.Join(unix.Setns(fd, int(flag)), unix.Close(fd))
			}
			if err != nil {
				return pids, 0, fmt.Errorf("join the %s namespace: %w", namespace.Type, err)
			}
		case flag == unix.CLONE_NEWPID, flag == unix.CLONE_NEWCGROUP:
			flags |= flag
		default:
			anew |= flag
		}
	}
	if err := unix.Unshare(int(anew)); err != nil {
		return pids, 0, fmt.Errorf("make namespaces: %w", err)
	}
	return pids, flags, nil
}

// forkInit forks the process, which waits when its proc is mounted. It returns the process's end of its terminal, nil without one.
func (w *way) forkInit(root *rootfs.Root, staged string, pids, group int, flags uint64) (tty *os.File, err error) {
	files, tty, err := w.streams(func() (*terminal, *os.File, error) {
		dir, err := root.Terminals()
		if err != nil {
			return nil, nil, err
		}
		return openTerminal(dir, "ptmx")
	})
	if err != nil {
		return nil, err
	}
	p := w.plan
	if pids < 0 {
		p.Streams(files)
	} else {
		p.Streams(files, pids)
		w.joinPIDs(pids)
		w.divide()
	}
	if proc := w.files.Proc; proc != nil {
		p.Call("mount proc", unix.SYS_MOUNT, p.Text("proc"), p.Text(staged), p.Text("proc"), proc.Flags, p.Text(proc.Data))
	}
	p.Hold()
	pid, err := p.Start(group, flags)
	if err != nil {
		return tty, err
	}
	w.claim(pid)
	return tty, nil
}

// furnish makes the container's file system and names, and makes it the root of the thread and of the process.
func (w *way) furnish(root *rootfs.Root, sources rootfs.Sources, console *os.File) error {
	tty := -1
	if console != nil {
		tty = int(console.Fd())
	}
	if err := root.Mount(sources, tty); err != nil {
		return err
	}
	if err := root.Finish(); err != nil {
		return err
	}
	if name := w.spec.Hostname; name != "" {
		if err := unix.Sethostname([]byte(name)); err != nil {
			return fmt.Errorf("set the host name %q: %w", name, err)
		}
	}
	if name := w.spec.Domainname; name != "" {
		if err := unix.Setdomainname([]byte(name)); err != nil {
			return fmt.Errorf("set the domain name %q: %w", name, err)
		}
	}
	return root.Pivot()
}

// groupSource is the control group that the container sees: its own, or all if it has no namespace for them.
func (w *way) groupSource() string {
	if hasNamespace(w.spec.Linux, specs.CgroupNamespace) {
		return string(w.container.cgroup)
	}
	return w.native.cgroupRoot
}
