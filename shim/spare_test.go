package shim

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/runtime/config"
	"github.com/limpet-run/limpet/runtime/pool"
)

// spareProcess is a process of the verb spare, whose pool's service is the test.
type spareProcess struct {
	*exec.Cmd
	stdin  io.Closer
	stdout *bufio.Scanner
	stderr bytes.Buffer
}

// newPool names an empty pool in the environment, for spares and those who ask.
func newPool(t *testing.T) (stateDir string) {
	t.Helper()
	stateDir, err := os.MkdirTemp("", "limpet")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(stateDir) })
	if err := os.Mkdir(pool.Dir(stateDir), 0o700); err != nil {
		t.Fatal(err)
	}
	configure(t, filepath.Join(stateDir, "limpet.toml"), stateDir, "")
	return stateDir
}

// configure writes a configuration and names it in the environment.
func configure(t *testing.T, path, stateDir, more string) {
	t.Helper()
	if err := os.WriteFile(path, fmt.Appendf(nil, "state_dir = %q\n%s", stateDir, more), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(config.PathVariable, path)
}

// startSpare starts a spare and waits until it is ready.
func startSpare(t *testing.T) *spareProcess {
	t.Helper()
	s := &spareProcess{Cmd: exec.Command(os.Args[0], verbSpare)}
	s.Env = append(os.Environ(), asShim+"=1", "GORACE=atexit_sleep_ms=0", "ONLY_THE_SPARES=1")
	s.Stderr = &s.stderr
	stdin, err := s.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.stdin, s.stdout = stdin, bufio.NewScanner(stdout)
	s.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Process.Kill() // it may have ended
		s.Wait()
		if t.Failed() {
			t.Logf("the spare said: %s", s.stderr.String())
		}
	})
	s.says(t, "ready")
	return s
}

func (s *spareProcess) says(t *testing.T, want string) {
	t.Helper()
	if !s.stdout.Scan() || s.stdout.Text() != want {
		t.Fatalf("the spare says %q, want %q", s.stdout.Text(), want)
	}
}

// ended waits for the end of the spare.
func (s *spareProcess) ended(t *testing.T) {
	t.Helper()
	ended := make(chan struct{})
	go func() {
		s.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Fatal("the spare does not end")
	}
}

// TestSpareBecomesServer has start take a spare, which is then what a server of its own would be.
func TestSpareBecomesServer(t *testing.T) {
	stateDir := newPool(t)
	waiting := startSpare(t)
	bundle := newBundle(t, "{}")
	path := startShim(t, bundle, "c1", "")
	waiting.says(t, "taken")
	record, err := readServerRecord(bundle)
	if err != nil || record.PID != waiting.Process.Pid || record.Socket != path {
		t.Fatalf("record %+v, %v; the spare is %d", record, err, waiting.Process.Pid)
	}
	connected, err := dial(t, path).Connect(t.Context(), &taskapi.ConnectRequest{ID: "c1"})
	if err != nil || int(connected.ShimPid) != waiting.Process.Pid {
		t.Errorf("served by %v, %v", connected, err)
	}
	proc := fmt.Sprintf("/proc/%d/", waiting.Process.Pid)
	if directory, err := os.Readlink(proc + "cwd"); err != nil || directory != bundle {
		t.Errorf("it is in %s, %v", directory, err)
	}
	for descriptor, want := range map[string]string{"0": os.DevNull, "1": os.DevNull, "2": filepath.Join(bundle, logName)} {
		if file, err := os.Readlink(proc + "fd/" + descriptor); err != nil || file != want {
			t.Errorf("descriptor %s is %s, %v", descriptor, file, err)
		}
	}
	if doors, err := os.ReadDir(pool.Dir(stateDir)); err != nil || len(doors) > 0 {
		t.Errorf("it can be asked again: %v, %v", doors, err)
	}
	waiting.stdin.Close() // the end of the pool's service
	if _, err := dial(t, path).Connect(t.Context(), &taskapi.ConnectRequest{ID: "c1"}); err != nil {
		t.Errorf("it ends with the service: %v", err)
	}
	if _, stderr, err := call(t, bundle, nil, identity(bundle, "c1", "delete")...); err != nil {
		t.Fatalf("%v: %s", err, stderr)
	}
	waiting.ended(t)
}

// TestSpareIsTakenOnce has as many starts as there are not spares: each gets a server.
func TestSpareIsTakenOnce(t *testing.T) {
	newPool(t)
	waiting := startSpare(t)
	pids := make(chan int)
	const starts = 4
	for i := range starts {
		bundle := newBundle(t, "{}")
		go func() {
			_, stderr, err := call(t, bundle, nil, identity(bundle, fmt.Sprint("c", i), "start")...)
			if err != nil {
				t.Errorf("%v: %s", err, stderr)
			}
			record, err := readServerRecord(bundle)
			if err != nil {
				t.Error(err)
			}
			pids <- record.PID
		}()
		t.Cleanup(func() { call(t, bundle, nil, identity(bundle, fmt.Sprint("c", i), "delete")...) })
	}
	servers := map[int]bool{}
	for range starts {
		servers[<-pids] = true
	}
	if len(servers) != starts || !servers[waiting.Process.Pid] {
		t.Errorf("servers %v; the spare is %d", servers, waiting.Process.Pid)
	}
}

// TestSpareEnds ends a spare in the ways in which it does.
func TestSpareEnds(t *testing.T) {
	for name, end := range map[string]func(*spareProcess) error{
		"with the service": func(s *spareProcess) error { return s.stdin.Close() },
		"by a signal":      func(s *spareProcess) error { return s.Process.Signal(unix.SIGTERM) },
	} {
		t.Run(name, func(t *testing.T) {
			stateDir := newPool(t)
			s := startSpare(t)
			if err := end(s); err != nil {
				t.Fatal(err)
			}
			s.ended(t)
			if doors, err := os.ReadDir(pool.Dir(stateDir)); err != nil || len(doors) > 0 {
				t.Errorf("left: %v, %v", doors, err)
			}
		})
	}
}

// TestSpareOfAnotherConfiguration is refused, and ends only if it is the older.
func TestSpareOfAnotherConfiguration(t *testing.T) {
	own := func(t *testing.T, waiting *spareProcess, id string) {
		t.Helper()
		bundle := newBundle(t, "{}")
		startShim(t, bundle, id, "")
		if record, err := readServerRecord(bundle); err != nil || record.PID == waiting.Process.Pid {
			t.Errorf("the spare was taken: %+v, %v", record, err)
		}
	}
	stateDir := newPool(t)
	waiting := startSpare(t)
	original := os.Getenv(config.PathVariable)
	configure(t, filepath.Join(stateDir, "other.toml"), stateDir, "[vm]\nvcpus = 3\n")
	own(t, waiting, "c1")
	if zombie(t, waiting.Process.Pid) {
		t.Fatal("it has ended")
	}
	configure(t, original, stateDir, "[vm]\nvcpus = 3\n")
	own(t, waiting, "c2")
	waiting.ended(t)
	if said := waiting.stderr.String(); !strings.Contains(said, "out of date") {
		t.Errorf("it said %s", said)
	}
}

// TestUnusedSpareIsStopped ends a server that was a spare before a sandbox was asked for.
func TestUnusedSpareIsStopped(t *testing.T) {
	s := newService("c1", "ns", t.TempDir(), &fakeRuntime{}, slog.New(slog.DiscardHandler))
	waiting := &fakeSpare{}
	s.spare, s.events = waiting, &recorder{}
	if err := s.close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !waiting.stopped {
		t.Error("the spare goes on")
	}
}

func TestLogTarget(t *testing.T) {
	var first, second strings.Builder
	plain := func(w io.Writer) slog.Handler {
		return slog.NewTextHandler(w, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}})
	}
	target := newLogTarget(plain(&first))
	logger := slog.New(target.handler()).With(sandboxField, "spare-1", "a", 1)
	logger.Info("before")
	target.set(plain(&second), "c1")
	logger.WithGroup("g").Info("after", "b", 2)
	if got, want := first.String(), "level=INFO msg=before sandbox=spare-1 a=1\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := second.String(), "level=INFO msg=after sandbox=c1 a=1 g.b=2\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
