package integration

import (
	"bufio"
	"testing"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"golang.org/x/sys/unix"
)

func TestExitCode(t *testing.T) {
	s := begin(t)
	if result := s.run(nil, "sh", "-c", "exit 7"); result.Code != 7 {
		t.Errorf("exit code %d, want 7: %v", result.Code, result.Err())
	}
}

// startReady starts a container whose command says that it is ready, and waits until it has.
func (s *scope) startReady(command ...string) container {
	s.Helper()
	path := s.fifo()
	output := bufio.NewReader(s.openFIFO(path))
	c := s.create(nil, command...)
	c.createTask(&tasks.CreateTaskRequest{Stdout: path, Stderr: path})
	c.startTask("")
	line, err := output.ReadString('\n')
	s.must(err)
	if line != "ready\n" {
		s.Fatalf("the container says %q", line)
	}
	return c
}

// TestKilled kills the first process of a container by signals. A process 1 without a handler ignores SIGTERM.
func TestKilled(t *testing.T) {
	tests := []struct {
		name   string
		signal unix.Signal
		script string
		want   uint32
	}{
		// The shell's child is killed, and the shell ends as the child did.
		{"TERM", unix.SIGTERM, `trap 'kill -TERM $child' TERM; sleep 1000000 & child=$!
			echo ready; wait $child; wait $child; exit $?`, 143},
		{"KILL", unix.SIGKILL, "echo ready; exec sleep 1000000", 137},
		{"handled", unix.SIGUSR1, "trap 'exit 3' USR1; echo ready; sleep 1000000 & wait", 3},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := begin(t).startReady("sh", "-c", test.script)
			c.kill(test.signal)
			if got := c.wait(""); got != test.want {
				t.Errorf("Wait says %d, want %d", got, test.want)
			}
			if got := c.deleteTask(); got != test.want {
				t.Errorf("Delete says %d, want %d", got, test.want)
			}
		})
	}
}

// TestKilledEarly sends a signal at once after the start, when the program has no handler for it yet.
func TestKilledEarly(t *testing.T) {
	s := begin(t)
	c := s.create(nil, "sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.1; done")
	c.createTask(&tasks.CreateTaskRequest{})
	c.startTask("")
	c.kill(unix.SIGTERM)
	if got := c.wait(""); got != 7 {
		t.Errorf("Wait says %d, want 7", got)
	}
	c.deleteTask()
}
