package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/integration/harness"
)

const (
	// testTimeout bounds a test, so that a hang is a failure that says where. A start takes about two seconds without KVM on an
	// idle host with two cores; this allows for twenty on one that is five times slower.
	testTimeout = 4 * time.Minute
	// cleanupTimeout is how long the host may take to be clean after the last container of a test has been deleted.
	cleanupTimeout = 15 * time.Second
)

// scope is one test's part of the run: its containers, and what the host had before it.
type scope struct {
	*testing.T
	ctx    context.Context // ends with the test or its deadline
	config string          // limpet's configuration file for the containers to come; empty for the run's
	count  int
}

// begin starts a test. When the test ends its containers are removed, and then nothing of it may be left on the host.
func begin(t *testing.T) *scope {
	t.Helper()
	before, err := daemon.Inventory()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	t.Cleanup(func() {
		cancel()
		ctx, cancel := context.WithTimeout(context.Background(), 2*cleanupTimeout)
		defer cancel()
		if err := daemon.RemoveAll(ctx); err != nil {
			t.Error(err)
		}
		ctx, cancel = context.WithTimeout(context.Background(), cleanupTimeout)
		defer cancel()
		if err := daemon.AwaitNothingSince(ctx, before); err != nil {
			t.Error(err)
		}
	})
	return &scope{T: t, ctx: ctx}
}

// limpetOnly begins a test of what only limpet has.
func limpetOnly(t *testing.T) *scope {
	t.Helper()
	if runtime != harness.Limpet {
		t.Skipf("%s has no virtual machine", runtime)
	}
	return begin(t)
}

// must ends the test if err is an error.
func (s *scope) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// id returns a new container id. It tells in logs which test the container is of.
func (s *scope) id() string {
	s.count++
	test, _, _ := strings.Cut(s.Name(), "/")
	return fmt.Sprintf("%s-%d", test, s.count)
}

func (s *scope) spec(flags []string, command ...string) harness.Spec {
	return harness.Spec{Runtime: runtime, ID: s.id(), Config: s.config, Flags: flags, Command: command}
}

// run runs a container to its end: ctr run --rm.
func (s *scope) run(flags []string, command ...string) harness.Result {
	spec := s.spec(append([]string{"--rm"}, flags...), command...)
	return daemon.Ctr(s.ctx, daemon.Args("run", spec)...)
}

// output runs a container that has to exit with 0 and returns what it wrote to its standard output.
func (s *scope) output(flags []string, command ...string) string {
	s.Helper()
	result := s.run(flags, command...)
	s.must(result.Err())
	return result.Stdout
}

// container is a container of a test.
type container struct {
	*scope
	id string
}

// start starts a container in the background, without input or output.
func (s *scope) start(flags []string, command ...string) container {
	s.Helper()
	spec := s.spec(append([]string{"--detach", "--null-io"}, flags...), command...)
	s.must(daemon.Ctr(s.ctx, daemon.Args("run", spec)...).Err())
	return container{s, spec.ID}
}

// sleeper starts a container that does nothing until it is killed.
func (s *scope) sleeper(flags ...string) container {
	s.Helper()
	return s.start(flags, "sleep", "1000000")
}

// execArgs returns the arguments of ctr that run a command in the container.
func (c container) execArgs(flags []string, command ...string) []string {
	c.count++
	args := append([]string{"task", "exec", "--exec-id", fmt.Sprintf("exec-%d", c.count)}, flags...)
	return append(append(args, c.id), command...)
}

// exec runs a command in the container.
func (c container) exec(flags []string, command ...string) harness.Result {
	return daemon.Ctr(c.ctx, c.execArgs(flags, command...)...)
}

// kill sends a signal to the first process of the container.
func (c container) kill(signal unix.Signal) {
	c.Helper()
	_, err := daemon.Tasks.Kill(daemon.Context(c.ctx), &tasks.KillRequest{ContainerID: c.id, Signal: uint32(signal)})
	c.must(err)
}

// wait waits until a process of the container has ended and returns its exit status; the first process has no exec id.
func (c container) wait(execID string) uint32 {
	c.Helper()
	exit, err := daemon.Tasks.Wait(daemon.Context(c.ctx), &tasks.WaitRequest{ContainerID: c.id, ExecID: execID})
	c.must(err)
	return exit.ExitStatus
}

// deleteTask deletes the ended task and returns the exit status that this reports.
func (c container) deleteTask() uint32 {
	c.Helper()
	response, err := daemon.Tasks.Delete(daemon.Context(c.ctx), &tasks.DeleteTaskRequest{ContainerID: c.id})
	c.must(err)
	return response.ExitStatus
}

// record starts a recording of events that ends with the test.
func (s *scope) record() *harness.Recorder { return s.recordOf(daemon.Client) }

// recordOf starts a recording of the events of a client's namespace. It ends with the test.
func (s *scope) recordOf(client *harness.Client) *harness.Recorder {
	s.Helper()
	recorder, err := client.Record(s.ctx)
	s.must(err)
	s.Cleanup(recorder.Close)
	return recorder
}

// configure writes a limpet configuration with the given changes for the containers to come.
func (s *scope) configure(changes map[string]any) {
	s.Helper()
	s.config = filepath.Join(s.TempDir(), "limpet.toml")
	s.must(daemon.WriteLimpetConfig(s.config, changes))
}

// fifo makes a FIFO that is removed with the test.
func (s *scope) fifo() string {
	s.Helper()
	path := filepath.Join(s.TempDir(), "fifo")
	s.must(unix.Mkfifo(path, 0o600))
	return path
}

// openFIFO opens both ends of a FIFO, so that neither opening waits for the other end, and closes them with the test.
func (s *scope) openFIFO(path string) *os.File {
	s.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	s.must(err)
	s.Cleanup(func() { file.Close() })
	return file
}
