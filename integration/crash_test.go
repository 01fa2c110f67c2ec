package integration

import (
	"context"
	"testing"
	"time"

	"github.com/containerd/containerd/api/services/sandbox/v1"
	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/integration/harness"
)

// crashTimeout is how long it may take until a killed machine or shim is noticed everywhere.
const crashTimeout = 30 * time.Second

// kill9 kills a process of the run, found by find, and waits for its end.
func (s *scope) kill9(find func() (harness.Process, error)) {
	s.Helper()
	process, err := find()
	s.must(err)
	s.must(unix.Kill(process.PID, unix.SIGKILL))
	ctx, cancel := context.WithTimeout(s.ctx, crashTimeout)
	defer cancel()
	s.must(process.WaitGone(ctx))
}

// promptly is how long the end of a machine may take to be told, and what is left of it to be deleted: neither waits for output.
const promptly = time.Second

// prompt fails a test in which something took longer than promptly.
func (s *scope) prompt(what string, since time.Time) {
	s.Helper()
	took := time.Since(since)
	s.Logf("%s took %s", what, took.Round(time.Millisecond))
	if took > promptly {
		s.Errorf("%s took %s, more than %s", what, took, promptly)
	}
}

// pod makes the container's sandbox known as one that others can join, and returns the flags of ctr with which they do.
func (c container) pod() []string {
	c.Helper()
	_, err := daemon.Sandboxes.Create(daemon.Context(c.ctx), &sandbox.StoreCreateRequest{
		Sandbox: &types.Sandbox{SandboxID: c.id, Runtime: &types.Sandbox_Runtime{Name: runtime}},
	})
	c.must(err)
	c.Cleanup(func() {
		_, err := daemon.Sandboxes.Delete(daemon.Context(context.Background()), &sandbox.StoreDeleteRequest{SandboxID: c.id})
		if err != nil {
			c.Error(err)
		}
	})
	return []string{"--sandbox", c.id}
}

// joined starts a container in the sandbox of another one.
func (c container) joined(flags ...string) container {
	c.Helper()
	return c.sleeper(append(c.pod(), flags...)...)
}

// TestMachineKilled kills the virtual machine of a sandbox with two containers, one with two processes. Each process exits once,
// with 255, and everything can be deleted as usual.
func TestMachineKilled(t *testing.T) {
	s := limpetOnly(t)
	recorder := s.record()
	first := s.sleeper()
	first.execProcess("beside", "sleep", "1000000")
	second := first.joined()
	s.kill9(qemu)
	lost := time.Now()

	for _, c := range []container{second, first} {
		if got := c.wait(""); got != 255 {
			t.Errorf("Wait of %s says %d, want 255", c.id, got)
		}
		_, err := daemon.Tasks.Kill(daemon.Context(s.ctx), &tasks.KillRequest{ContainerID: c.id, Signal: uint32(unix.SIGKILL)})
		if !errdefs.IsNotFound(err) {
			t.Errorf("Kill of %s says %v, want not found", c.id, err)
		}
	}
	if got := first.wait("beside"); got != 255 {
		t.Errorf("Wait of the second process says %d, want 255", got)
	}
	s.prompt("all exits", lost)
	for _, c := range []container{second, first} {
		asked := time.Now()
		if got := c.deleteTask(); got != 255 {
			t.Errorf("Delete of %s says %d, want 255", c.id, got)
		}
		s.prompt("Delete of "+c.id, asked)
	}
	s.wantEvents(recorder, first.id, "create", "start", "exec-added", "exec-started", "exit", "exit", "delete")
	s.wantEvents(recorder, second.id, "create", "start", "exit", "delete")
}

// TestMachineKilledUnread has a process that waits for somebody to read its output when the machine goes.
func TestMachineKilledUnread(t *testing.T) {
	s := limpetOnly(t)
	path := s.fifo()
	c := s.create(nil, "yes")
	s.openFIFO(path)
	c.createTask(&tasks.CreateTaskRequest{Stdout: path, Stderr: path})
	c.startTask("")
	s.kill9(qemu)
	lost := time.Now()
	if got := c.wait(""); got != 255 {
		t.Errorf("Wait says %d, want 255", got)
	}
	s.prompt("the exit", lost)
	asked := time.Now()
	if got := c.deleteTask(); got != 255 {
		t.Errorf("Delete says %d, want 255", got)
	}
	s.prompt("Delete", asked)
}

// TestDaemonKilled kills what host and guest talk through, and what serves the guest its files. Of the processes in the machine nothing
// can be told any more, or they would wait for ever, so they end with it.
func TestDaemonKilled(t *testing.T) {
	for name, find := range map[string]func() (harness.Process, error){"vsock": vsockDaemon, "files": fileDaemon} {
		t.Run(name, func(t *testing.T) {
			s := limpetOnly(t)
			c := s.sleeper()
			s.kill9(find)
			lost := time.Now()
			if got := c.wait(""); got != 255 {
				t.Errorf("Wait says %d, want 255", got)
			}
			s.prompt("the exit", lost)
			if got := c.deleteTask(); got != 255 {
				t.Errorf("Delete says %d, want 255", got)
			}
		})
	}
}

// TestMachineKilledWhileRunning kills the machine under a `ctr run --rm`, which ends as if its process had.
func TestMachineKilledWhileRunning(t *testing.T) {
	s := limpetOnly(t)
	recorder := s.record()
	spec := s.spec([]string{"--rm"}, "sleep", "1000000")
	results := make(chan harness.Result, 1)
	go func() { results <- daemon.Ctr(s.ctx, daemon.Args("run", spec)...) }()
	s.await(recorder, spec.ID, "start")
	s.kill9(qemu)
	killed := time.Now()
	if result := <-results; result.Code != 255 {
		t.Errorf("ctr run exits with %d, want 255: %v", result.Code, result.Err())
	}
	// There is nothing to wait for: no output comes any more.
	if took := time.Since(killed); took > 5*time.Second {
		t.Errorf("ctr run ended %s after its machine", took)
	}
}

// TestShimKilled kills the shim. containerd notices and has limpet clean up after it: the machine, its daemons, mounts, state;
// begin checks that.
func TestShimKilled(t *testing.T) {
	s := limpetOnly(t)
	recorder := s.record()
	c := s.sleeper()
	c.execProcess("beside", "sleep", "1000000")
	s.kill9(shim)
	s.await(recorder, c.id, "exit", "delete")
	// With the task gone, a new one can be made of the same container.
	c.createTask(&tasks.CreateTaskRequest{})
	c.startTask("")
	c.must(c.exec(nil, "true").Err())
}

// TestShimKilledDuringStart kills the shim while its machine boots.
func TestShimKilledDuringStart(t *testing.T) {
	s := limpetOnly(t)
	c := s.create(nil, "true")
	created := make(chan error, 1)
	go func() { created <- c.tryCreateTask(&tasks.CreateTaskRequest{}) }()
	s.awaitProcess(qemu)
	s.kill9(shim)
	if err := <-created; err == nil {
		t.Error("the task was made although its shim was killed")
	}
}

// awaitProcess waits until the run has a process that find finds. Nothing tells when a process starts, so this looks again.
func (s *scope) awaitProcess(find func() (harness.Process, error)) {
	s.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		_, err := find()
		if err == nil {
			return
		}
		select {
		case <-ticker.C:
		case <-s.ctx.Done():
			s.Fatal(err)
		}
	}
}
