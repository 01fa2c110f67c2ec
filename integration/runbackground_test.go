package integration

import (
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/integration/harness"
	"github.com/limpet-run/limpet/runtime/exitcode"
	"github.com/limpet-run/limpet/runtime/standalone"
)

// detach starts a run in the background.
func (s *scope) detach(name string, args ...string) {
	s.Helper()
	result := s.limpet("run", append([]string{"--detach", "--name", name}, args...)...)
	s.must(result.Err())
	if result.Stdout != name+"\n" {
		s.Errorf("it is called %q", result.Stdout)
	}
}

// kept is what is kept of a run's output: stdout, then stderr.
func (s *scope) kept(name string) string {
	s.Helper()
	result := s.limpet("logs", name)
	s.must(result.Err())
	return result.Stdout + result.Stderr
}

// TestRunDetached has runs in the background, as their user sees them.
func TestRunDetached(t *testing.T) {
	s := limpetOnly(t)
	root := s.rootfs()

	t.Run("ends by itself", func(t *testing.T) {
		s.detach("short", root, "--", "sh", "-c", "echo out; echo err >&2; exit 5")
		record := s.awaitRun("short", standalone.StateEnded)
		if record.Exit.Code != 5 || record.Exit.Reason != "exited" || s.kept("short") != "out\nerr\n" {
			t.Errorf("got %+v, %q", record.Exit, s.kept("short"))
		}
		result := s.limpet("run", "--name", "short", root, "--", "true")
		if result.Code != exitcode.Failure {
			t.Errorf("the name was given again: %d", result.Code)
		}
		wantError(t, result.Stderr, "short", "limpet rm")
		s.must(s.limpet("rm", "short").Err())
	})
	t.Run("is stopped", func(t *testing.T) {
		s.detach("long", root, "--", "sh", "-c", "trap 'echo bye; exit 3' TERM; trap 'echo again' USR1; echo ready; while :; do sleep 0.1; done")
		s.wantRow(s.limpet("ps").Stdout, standalone.Namespace, "long")
		s.awaitOutput("long", "ready\n")
		s.must(s.limpet("kill", "--signal", "usr1", "long").Err())
		s.awaitOutput("long", "again\n")
		result := s.limpet("rm", "long")
		if result.Code != exitFailure {
			t.Errorf("removed: %d", result.Code)
		}
		wantError(t, result.Stderr, "long", "limpet stop")
		s.must(s.limpet("stop", "long").Err())
		if record := s.awaitRun("long", standalone.StateEnded); record.Exit.Code != 3 || !strings.HasSuffix(s.kept("long"), "bye\n") {
			t.Errorf("got %+v, %q", record.Exit, s.kept("long"))
		}
		result = s.limpet("stop", "long")
		wantError(t, result.Stderr, "long", "has ended")
		s.must(s.limpet("rm", "long").Err())
		result = s.limpet("kill", "long")
		wantError(t, result.Stderr, "long", "not found")
	})
	t.Run("is killed and forgotten", func(t *testing.T) {
		s.detach("rm", "--rm", root, "--", "sleep", "1000")
		s.must(s.limpet("rm", "--force", "rm").Err())
		if _, err := standalone.Find(daemon.StateDir(), "rm"); err == nil {
			t.Error("it is still there")
		}
	})
	t.Run("does not start", func(t *testing.T) {
		result := s.limpet("run", "--detach", root, "--", "nothere")
		if result.Code != exitcode.NotFound {
			t.Errorf("exit status %d", result.Code)
		}
		wantError(t, result.Stderr, "nothere")
	})
	t.Run("loses its supervisor", func(t *testing.T) {
		s.detach("orphan", root, "--", "sleep", "1000")
		record := s.awaitRun("orphan", standalone.StateRunning)
		s.must(unix.Kill(record.Holder, unix.SIGKILL))
		s.must(harness.Process{PID: record.Holder}.WaitGone(s.ctx))
		s.must(s.limpet("run", root, "--", "true").Err())
		if record := s.awaitRun("orphan", standalone.StateEnded); record.Exit.Code != exitcode.Failure {
			t.Errorf("got %+v", record.Exit)
		}
		s.must(s.limpet("rm", "orphan").Err())
	})
	t.Run("is told to end with its supervisor", func(t *testing.T) {
		s.detach("shutdown", "--rm", root, "--", "sh", "-c", "trap exit TERM; while :; do sleep 0.1; done")
		record := s.awaitRun("shutdown", standalone.StateRunning)
		process, err := os.FindProcess(record.Holder)
		s.must(err)
		s.must(process.Signal(unix.SIGTERM))
		s.must(harness.Process{PID: record.Holder}.WaitGone(s.ctx))
	})
}

// exitFailure is the exit status of a command of limpet that failed.
const exitFailure = 1

// awaitOutput waits until a run has written something.
func (s *scope) awaitOutput(name, want string) {
	s.Helper()
	reader, writer, err := os.Pipe()
	s.must(err)
	defer reader.Close()
	go func() {
		_ = standalone.CopyOutput(s.ctx, daemon.StateDir(), name, true, writer, writer)
		writer.Close()
	}()
	s.must(reader.SetReadDeadline(time.Now().Add(runTimeout)))
	var text []byte
	for !strings.Contains(string(text), want) {
		buffer := make([]byte, 4096)
		n, err := reader.Read(buffer)
		if err != nil {
			s.Fatalf("it wrote %q: %v", text, err)
		}
		text = append(text, buffer[:n]...)
	}
}
