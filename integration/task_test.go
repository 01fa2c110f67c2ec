package integration

import (
	"errors"

	"github.com/containerd/containerd/api/services/tasks/v1"

	"github.com/limpet-run/limpet/integration/harness"
)

// create makes a container without a task, for tests that use the task API themselves.
func (s *scope) create(flags []string, command ...string) container {
	s.Helper()
	spec := s.spec(flags, command...)
	s.must(daemon.Ctr(s.ctx, daemon.Args("container create", spec)...).Err())
	return container{s, spec.ID}
}

// tryCreateTask makes the container's task. The request's container and rootfs are filled in.
func (c container) tryCreateTask(request *tasks.CreateTaskRequest) error {
	rootfs, err := daemon.Rootfs(c.ctx, c.id)
	if err != nil {
		return err
	}
	request.ContainerID = c.id
	if request.Rootfs == nil {
		request.Rootfs = rootfs
	}
	_, err = daemon.Tasks.Create(daemon.Context(c.ctx), request)
	return err
}

func (c container) createTask(request *tasks.CreateTaskRequest) {
	c.Helper()
	c.must(c.tryCreateTask(request))
}

// startTask starts a process of the container: the first one, or one that execTask made.
func (c container) startTask(execID string) {
	c.Helper()
	_, err := daemon.Tasks.Start(daemon.Context(c.ctx), &tasks.StartRequest{ContainerID: c.id, ExecID: execID})
	c.must(err)
}

// execProcess starts a process beside the first one, without input or output.
func (c container) execProcess(execID string, command ...string) {
	c.Helper()
	c.must(daemon.Ctr(c.ctx, append([]string{"task", "exec", "--detach", "--exec-id", execID, c.id}, command...)...).Err())
}

// qemu returns the run's only virtual machine.
func qemu() (harness.Process, error) {
	return daemon.FindProcess(func(p harness.Process) bool { return p.Program() == "qemu-system-x86_64" })
}

// vsockDaemon returns the daemon of the run's only virtual machine that moves what host and guest say.
func vsockDaemon() (harness.Process, error) {
	return daemon.FindProcess(func(p harness.Process) bool { return p.Program() == "vhost-device-vsock" })
}

// fileDaemon returns the process that serves the run's only virtual machine its files: the last one where one watches another.
func fileDaemon() (harness.Process, error) {
	var last harness.Process
	processes, err := daemon.Processes()
	for _, process := range processes {
		if process.Program() == "virtiofsd" && process.PID > last.PID {
			last = process
		}
	}
	if last.PID == 0 {
		err = errors.Join(err, errors.New("the run has no virtiofsd"))
	}
	return last, err
}

// shim returns the run's only shim.
func shim() (harness.Process, error) {
	return daemon.FindProcess(func(p harness.Process) bool { return p.Program() == "containerd-shim-limpet-v2" && p.IsShim() })
}
