package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/agent/reaper"
	"github.com/limpet-run/limpet/guest/protocol"
)

// Command is a program to be run in the machine itself, among the agent's own namespaces and files. Of its process only Args, Env, Cwd and
// Terminal count.
type Command struct {
	ID        string // as a container's, unique among those of the set
	RequestID uint64
	Process   *specs.Process
	Streams   *protocol.Streams
	Size      *protocol.Size // of the terminal
	// Fallback is the program to run if the one that is named, without a directory, is not found: one that is many by the names that it is
	// called by, as busybox is.
	Fallback string
}

// Command starts a command. It is like a container's init, in a control group of its own and known by its ids, and is removed by Remove;
// but what it leaves running goes on. The host hears of its end only after Announce.
func (s *Set) Command(ctx context.Context, m Command) (_ *Process, err error) {
	if err := checkID(m.ID); err != nil {
		return nil, err
	}
	if err := checkProcess(m.Process); err != nil {
		return nil, fmt.Errorf("command %s: %w", m.ID, err)
	}
	c, err := s.claim(m.ID, "/")
	if err != nil {
		return nil, fmt.Errorf("command %s: %w", m.ID, err)
	}
	c.command = true
	close(c.settled)
	defer func() {
		if err != nil {
			err = errors.Join(err, c.clean())
			s.release(m.RequestID)
			s.forget(c)
		}
	}()
	if err := s.reserve(m.RequestID, c); err != nil {
		return nil, fmt.Errorf("command %s: %w", m.ID, err)
	}
	if err := os.Mkdir(string(c.cgroup), 0o755); err != nil {
		return nil, fmt.Errorf("command %s: make a control group: %w", m.ID, err)
	}
	l := launch{container: c, requestID: m.RequestID, process: m.Process, size: m.Size, first: &first{}}
	p, err := c.launch(ctx, &direct{reaper: s.Reaper, fallback: m.Fallback}, l, m.Streams, func(p *Process) {
		s.mu.Lock()
		c.state, c.init = running, p
		s.mu.Unlock()
		c.watchOOM()
	})
	if err != nil {
		return nil, fmt.Errorf("command %s: %w", m.ID, &protocol.Error{Message: err.Error(), Code: protocol.CodeSpawnFailed})
	}
	return p, nil
}

// forget drops a container that was never started.
func (s *Set) forget(c *Container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.containers, c.id)
}

// direct starts processes of no container.
type direct struct {
	reaper   *reaper.Reaper
	fallback string
}

func (d *direct) start(_ context.Context, l launch) (launched, error) {
	process := l.process
	group, err := os.Open(string(l.container.cgroup))
	if err != nil {
		return launched{}, err
	}
	defer group.Close()
	env := withHome(process.Env, func() string { return readHome(0) })
	program, err := lookup(process.Args[0], env)
	if errors.Is(err, unix.ENOENT) && !strings.Contains(process.Args[0], "/") && executable(d.fallback) == nil {
		program, err = d.fallback, nil
	}
	if err != nil {
		return launched{}, err
	}
	attributes := &os.ProcAttr{
		Dir: process.Cwd, Env: env,
		Sys: &syscall.SysProcAttr{Setsid: true, Setctty: process.Terminal, UseCgroupFD: true, CgroupFD: int(group.Fd())},
	}
	var console *terminal
	if process.Terminal {
		var tty *os.File
		if console, tty, err = newConsole(l.size, openMachines); err != nil {
			return launched{}, err
		}
		defer tty.Close()
		attributes.Files = []*os.File{tty, tty, tty}
	} else {
		attributes.Files = l.io.process[:]
	}
	hold := d.reaper.Hold()
	defer hold.Release()
	started, err := os.StartProcess(program, process.Args, attributes)
	if err != nil {
		if console != nil {
			console.Close()
		}
		return launched{}, err
	}
	pid := started.Pid
	_ = started.Release() // it is the reaper's; nothing else is there to fail
	return launched{child: hold.Claim(pid), console: console}, nil
}

// openMachines opens a terminal of the machine's own.
func openMachines() (*terminal, *os.File, error) { return openTerminal(unix.AT_FDCWD, "/dev/ptmx") }
