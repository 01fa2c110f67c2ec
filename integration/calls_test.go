package integration

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"
)

// status returns what containerd says of a process.
func (c container) status(execID string) *task.Process {
	c.Helper()
	response, err := daemon.Tasks.Get(daemon.Context(c.ctx), &tasks.GetRequest{ContainerID: c.id, ExecID: execID})
	c.must(err)
	return response.Process
}

func (c container) wantStatus(execID string, want task.Status) {
	c.Helper()
	if got := c.status(execID).Status; got != want {
		c.Errorf("process %q of %s is %v, want %v", execID, c.id, got, want)
	}
}

// TestKillAll signals every process of a container. With runc only the first one gets a signal, whose end is that of the others.
func TestKillAll(t *testing.T) {
	s := limpetOnly(t)
	c := s.startReady("sh", "-c", `trap "touch /told" TERM; echo ready; while :; do sleep 0.05; done`)
	c.execProcess("beside", "sleep", "1000000")
	_, err := daemon.Tasks.Kill(daemon.Context(s.ctx), &tasks.KillRequest{ContainerID: c.id, Signal: uint32(unix.SIGTERM), All: true})
	s.must(err)
	if got := c.wait("beside"); got != 143 {
		t.Errorf("the process beside exits with %d, want 143", got)
	}
	s.must(c.exec(nil, "sh", "-c", "until [ -e /told ]; do sleep 0.05; done").Err())
}

// TestPause pauses a container: it neither runs nor takes execs, can be killed, and says that it is paused.
func TestPause(t *testing.T) {
	s := begin(t)
	recorder := s.record()
	c := s.sleeper()
	c.execProcess("beside", "sleep", "1000000")
	ctx := daemon.Context(s.ctx)
	pause := func() {
		t.Helper()
		_, err := daemon.Tasks.Pause(ctx, &tasks.PauseTaskRequest{ContainerID: c.id})
		s.must(err)
	}
	pause()
	c.wantStatus("", task.Status_PAUSED)
	c.wantStatus("beside", task.Status_PAUSED)
	if _, err := daemon.Tasks.Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: c.id}); err == nil {
		t.Error("a paused task was deleted")
	}
	if result := c.exec(nil, "true"); result.Code == 0 {
		t.Error("a paused container took an exec")
	}
	_, err := daemon.Tasks.Resume(ctx, &tasks.ResumeTaskRequest{ContainerID: c.id})
	s.must(err)
	c.wantStatus("", task.Status_RUNNING)
	s.must(c.exec(nil, "true").Err())
	pause()
	c.kill(unix.SIGKILL)
	if got := c.wait(""); got != 137 {
		t.Errorf("killed while paused: exit status %d, want 137", got)
	}
	if got := c.deleteTask(); got != 137 {
		t.Errorf("Delete says %d, want 137", got)
	}
	s.await(recorder, c.id, "paused", "resumed", "paused", "exit", "delete")
}

// TestCheckpoint is refused, and the container that was paused for it goes on.
func TestCheckpoint(t *testing.T) {
	s := limpetOnly(t)
	c := s.sleeper()
	result := daemon.Ctr(s.ctx, "task", "checkpoint", c.id)
	if result.Code == 0 {
		t.Error("there is a checkpoint")
	}
	wantError(t, result.Stderr, c.id, "not implemented")
	c.wantStatus("", task.Status_RUNNING)
	s.must(c.exec(nil, "true").Err())
}

// TestWaitOfBackground has a process that leaves a child behind which holds its output. Its end is told all the same.
func TestWaitOfBackground(t *testing.T) {
	s := begin(t)
	c := s.sleeper()
	path := s.fifo()
	s.openFIFO(path)
	c.execProcessIO("parent", path, "sh", "-c", "sleep 1000000 & echo started")
	began := time.Now()
	if got := c.wait("parent"); got != 0 {
		t.Errorf("exit status %d, want 0", got)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the end was told after %s", took)
	}
}

// execProcessIO starts a process beside the first one, whose outputs go to a FIFO.
func (c container) execProcessIO(execID, fifo string, command ...string) {
	c.Helper()
	process := *c.configuration().Process
	process.Args = command
	spec, err := json.Marshal(&process)
	c.must(err)
	_, err = daemon.Tasks.Exec(daemon.Context(c.ctx), &tasks.ExecProcessRequest{
		ContainerID: c.id, ExecID: execID, Stdout: fifo, Stderr: fifo,
		Spec: &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: spec},
	})
	c.must(err)
	c.startTask(execID)
}

// TestOutOfOrder makes calls at the wrong time, through containerd. Their errors have a class, which runc's have not, and the container
// does not mind.
func TestOutOfOrder(t *testing.T) {
	s := limpetOnly(t)
	c := s.sleeper()
	ctx := daemon.Context(s.ctx)
	for _, test := range []struct {
		name string
		call func() error
		is   func(error) bool
	}{
		{"start twice", func() error {
			_, err := daemon.Tasks.Start(ctx, &tasks.StartRequest{ContainerID: c.id})
			return err
		}, errdefs.IsFailedPrecondition},
		{"delete while running", func() error {
			_, err := daemon.Tasks.Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: c.id})
			return err
		}, errdefs.IsFailedPrecondition},
		{"unknown exec", func() error {
			_, err := daemon.Tasks.Kill(ctx, &tasks.KillRequest{ContainerID: c.id, ExecID: "none", Signal: 9})
			return err
		}, errdefs.IsNotFound},
		{"signal 0", func() error {
			_, err := daemon.Tasks.Kill(ctx, &tasks.KillRequest{ContainerID: c.id})
			return err
		}, func(err error) bool { return err == nil }},
		{"signal 65", func() error {
			_, err := daemon.Tasks.Kill(ctx, &tasks.KillRequest{ContainerID: c.id, Signal: 65})
			return err
		}, errdefs.IsInvalidArgument},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := test.call(); !test.is(err) {
				t.Errorf("got %v", err)
			}
			c.wantStatus("", task.Status_RUNNING)
		})
	}
}

// TestInputStaysOpen has a client that comes and goes: the end of input is what CloseIO says, once or more.
func TestInputStaysOpen(t *testing.T) {
	s := begin(t)
	stdin, stdout := s.fifo(), s.fifo()
	output := bufio.NewReader(s.openFIFO(stdout))
	c := s.create(nil, "sh", "-c", "cat; echo end")
	c.createTask(&tasks.CreateTaskRequest{Stdin: stdin, Stdout: stdout, Stderr: stdout})
	c.startTask("")
	line := func(want string) {
		t.Helper()
		got, err := output.ReadString('\n')
		s.must(err)
		if got != want {
			t.Errorf("read %q, want %q", got, want)
		}
	}
	for _, text := range []string{"one\n", "two\n"} {
		client, err := os.OpenFile(stdin, os.O_WRONLY, 0)
		s.must(err)
		_, err = io.WriteString(client, text)
		s.must(err)
		s.must(client.Close())
		line(text)
	}
	for range 2 {
		_, err := daemon.Tasks.CloseIO(daemon.Context(s.ctx), &tasks.CloseIORequest{ContainerID: c.id, Stdin: true})
		s.must(err)
	}
	line("end\n")
	c.wait("")
}

// TestReaderComesBack has a reader of the output that goes away and comes back, as containerd does when it is restarted.
func TestReaderComesBack(t *testing.T) {
	s := begin(t)
	stdin, stdout := s.fifo(), s.fifo()
	input := s.openFIFO(stdin)
	open := func() *os.File {
		t.Helper()
		reader, err := os.OpenFile(stdout, os.O_RDONLY|unix.O_NONBLOCK, 0)
		s.must(err)
		return reader
	}
	reader := open()
	c := s.create(nil, "cat")
	c.createTask(&tasks.CreateTaskRequest{Stdin: stdin, Stdout: stdout, Stderr: stdout})
	c.startTask("")
	for _, text := range []string{"one\n", "two\n"} {
		_, err := io.WriteString(input, text)
		s.must(err)
		got := make([]byte, len(text))
		_, err = io.ReadFull(reader, got)
		s.must(err)
		if string(got) != text {
			t.Errorf("read %q, want %q", got, text)
		}
		s.must(reader.Close())
		reader = open()
	}
	s.must(reader.Close())
	c.wantStatus("", task.Status_RUNNING)
	if process := c.status(""); process.Stdin != stdin || process.Stdout != stdout || process.Stderr != stdout {
		t.Errorf("State says %v, want the names that were given", process)
	}
}

// TestLoggingBinary sends the output of a container to a program that the URI names. Unlike runc's, its shim lets the program write
// what it was given before it ends it.
func TestLoggingBinary(t *testing.T) {
	s := limpetOnly(t)
	dir := t.TempDir()
	program, log := filepath.Join(dir, "logger"), filepath.Join(dir, "log")
	s.must(os.WriteFile(program, []byte(`#!/bin/sh
echo "$CONTAINER_NAMESPACE $CONTAINER_ID" >"$2"
exec 6>&5 5>&-; echo -n . >&6; exec 6>&-
cat <&3 >>"$2"
cat <&4 >>"$2"
echo end >>"$2"
`), 0o700))
	uri := "binary://" + program + "?file=" + log
	c := s.create(nil, "sh", "-c", "echo out; echo err >&2")
	c.createTask(&tasks.CreateTaskRequest{Stdout: uri, Stderr: uri})
	c.startTask("")
	c.wait("")
	c.deleteTask() // the program has written all by then
	text, err := os.ReadFile(log)
	s.must(err)
	if want := daemon.Namespace + " " + c.id + "\nout\nerr\nend\n"; string(text) != want {
		t.Errorf("logged %q, want %q", text, want)
	}
}

// TestLoggingBinaryMissing names a program that is not there, or fails. The error says which, and no sandbox is started for it.
func TestLoggingBinaryMissing(t *testing.T) {
	s := limpetOnly(t)
	c := s.create(nil, "true")
	for _, program := range []string{"/nowhere/logger", "/bin/false"} {
		err := c.tryCreateTask(&tasks.CreateTaskRequest{Stdout: "binary-v2://" + program, Stderr: "binary-v2://" + program})
		if err == nil {
			t.Fatal("the task was made")
		}
		wantError(t, err.Error(), program, c.id)
	}
}
