package container

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

// signalAll sends a signal to every process of the container.
func (c *Container) signalAll(signal unix.Signal) error {
	if signal == unix.SIGKILL {
		if err := c.cgroup.kill(); err != nil {
			return fmt.Errorf("kill container %s: %w", c.id, err)
		}
		return nil
	}
	pids, err := c.cgroup.pids()
	if err != nil {
		return fmt.Errorf("signal container %s: %w", c.id, err)
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, signal); err != nil && err != unix.ESRCH {
			return fmt.Errorf("signal container %s: process %d: %w", c.id, pid, err)
		}
	}
	return nil
}

// Pids lists a container's processes, with the host's ids of those that the host started.
func (s *Set) Pids(m protocol.ListPids) (protocol.PidList, error) {
	c, err := s.container(m.ContainerID)
	if err != nil {
		return protocol.PidList{}, fmt.Errorf("list pids: %w", err)
	}
	pids, err := c.cgroup.pids()
	if err != nil {
		return protocol.PidList{}, fmt.Errorf("list pids of container %s: %w", c.id, err)
	}
	s.mu.Lock()
	requests := make(map[int]uint64, len(c.processes))
	for id, p := range c.processes {
		if p.running() {
			requests[p.child.Pid()] = id
		}
	}
	s.mu.Unlock()
	list := protocol.PidList{Pids: make([]protocol.ProcessInfo, 0, len(pids))}
	for _, pid := range pids {
		list.Pids = append(list.Pids, protocol.ProcessInfo{PID: uint32(pid), RequestID: requests[pid]})
	}
	return list, nil
}

// Pause freezes a container. A process that is being started would freeze halfway, so none may be.
func (s *Set) Pause(ctx context.Context, m protocol.Pause) error {
	return s.freeze(ctx, "pause", m.ContainerID, running, paused)
}

// Resume lets a paused container go on.
func (s *Set) Resume(ctx context.Context, m protocol.Resume) error {
	return s.freeze(ctx, "resume", m.ContainerID, paused, running)
}

func (s *Set) freeze(ctx context.Context, action, id string, from, to state) error {
	c, err := s.container(id)
	if err != nil {
		return fmt.Errorf("%s: %w", action, err)
	}
	s.mu.Lock()
	busy := c.execs > 0
	s.mu.Unlock()
	if busy {
		return fmt.Errorf("%s container %s: a process is being started in it: try again: %w", action, id, errdefs.ErrFailedPrecondition)
	}
	if err := c.enter(action, pausing, from); err != nil {
		return err
	}
	err = c.cgroup.freeze(ctx, to == paused)
	if err != nil {
		to = from
		err = fmt.Errorf("%s container %s: %w", action, id, err)
	}
	c.enter(action, to, pausing) // its init may have been killed meanwhile
	return err
}
