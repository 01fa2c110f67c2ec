package shim

import (
	"context"
	"fmt"
	"os"
	"time"

	eventtypes "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limpet-run/limpet/runtime"
)

// createTimeout bounds Create. It covers a cold boot under emulation on a host that boots many at once; the runtime has narrower deadlines
// for its steps.
const createTimeout = 3 * time.Minute

// create makes a container, and the sandbox if this is its first one.
func (s *service) create(ctx context.Context, r *taskapi.CreateTaskRequest) (made *task, err error) {
	called := time.Now()
	switch {
	case r.ID == "":
		return nil, fmt.Errorf("a container needs an id: %w", errdefs.ErrInvalidArgument)
	case r.Checkpoint != "":
		return nil, fmt.Errorf("container %s: restore from a checkpoint: %w", r.ID, errdefs.ErrNotImplemented)
	}
	options, err := decodeOptions(r.Options)
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", r.ID, err)
	}
	if err := s.reserve(ctx, r.ID); err != nil {
		return nil, err
	}
	defer func() {
		if made == nil {
			s.forget(r.ID)
		}
	}()

	names := stdio{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal}
	streams, err := openStreams(names, target{s.namespace, r.ID})
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", r.ID, err)
	}
	defer func() {
		if made == nil {
			streams.close()
		}
	}()
	container, err := s.containerFor(ctx, runtime.ContainerOptions{
		ID:     r.ID,
		Bundle: r.Bundle,
		Rootfs: mount.FromProto(r.Rootfs),
		IO:     streams.io,
	}, options, called)
	if err != nil {
		return nil, err
	}
	made = &task{
		id:        r.ID,
		bundle:    r.Bundle,
		container: container,
		init:      newProcess("", names, streams, container.Init()),
		publish:   s.events.publish,
		logger:    s.logger.With("container", r.ID),
		execs:     make(map[string]*process),
	}
	made.keep(taskRecord{PID: made.init.pid()})
	s.events.publish(&eventtypes.TaskCreate{
		ContainerID: r.ID,
		Bundle:      r.Bundle,
		Rootfs:      r.Rootfs,
		IO:          &eventtypes.TaskIO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
		Pid:         made.init.pid(),
	})
	s.add(made)
	go made.watchCreated(made.init)
	return made, nil
}

// exec makes a process in a running container; start starts it.
func (s *service) exec(ctx context.Context, r *taskapi.ExecProcessRequest) error {
	task, err := s.task(r.ID)
	if err != nil {
		return err
	}
	if r.ExecID == "" {
		return fmt.Errorf("an exec of container %s needs an id: %w", r.ID, errdefs.ErrInvalidArgument)
	}
	if err := task.reserve(r.ExecID); err != nil {
		return err
	}
	added := false
	defer func() {
		if !added {
			task.forget(r.ExecID)
		}
	}()
	if err := task.takesExecs(); err != nil {
		return fmt.Errorf("exec %s: %w", r.ExecID, err)
	}
	names := stdio{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal}
	streams, err := openStreams(names, target{s.namespace, r.ID})
	if err != nil {
		return fmt.Errorf("exec %s of container %s: %w", r.ExecID, r.ID, err)
	}
	made, err := task.container.Exec(ctx, runtime.ExecOptions{ID: r.ExecID, Spec: r.Spec.GetValue(), IO: streams.io})
	if err != nil {
		streams.close()
		return err
	}
	s.events.publish(&eventtypes.TaskExecAdded{ContainerID: r.ID, ExecID: r.ExecID})
	exec := newProcess(r.ExecID, names, streams, made)
	task.add(exec)
	go task.watchCreated(exec)
	added = true
	return nil
}

// delete removes a container, or an exec.
func (s *service) delete(ctx context.Context, id, execID string) (*process, runtime.ExitStatus, error) {
	task, process, err := s.process(id, execID)
	if err != nil {
		return nil, runtime.ExitStatus{}, err
	}
	if execID != "" {
		exit, err := task.delete(ctx, process, process.backing.Delete)
		if err != nil {
			return nil, runtime.ExitStatus{}, err
		}
		task.forget(execID)
		return process, exit, nil
	}
	exit, err := task.delete(ctx, process, task.container.Delete)
	if err != nil {
		return nil, runtime.ExitStatus{}, err
	}
	s.events.publish(&eventtypes.TaskDelete{
		ContainerID: id,
		Pid:         process.pid(),
		ExitStatus:  exit.Code,
		ExitedAt:    timestamppb.New(exit.At),
	})
	s.forget(id)
	s.leave(id)
	return process, exit, nil
}

// pids lists a container's processes: all stand on the host behind the one pid of the container, told apart by their exec ids.
func (s *service) pids(id string) ([]runtime.Pid, error) {
	task, err := s.task(id)
	if err != nil {
		return nil, err
	}
	return task.container.Pids(), nil
}

// connect returns the pids of the shim and of the task; zero if there is no such task.
func (s *service) connect(id string) (shim, task uint32) {
	if known, err := s.task(id); err == nil {
		task = known.init.pid()
	}
	return uint32(os.Getpid()), task
}
