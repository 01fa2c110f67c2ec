package shim

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/limpet-run/limpet/runtime"
)

// TestCreateRefuses has no refusal that is ErrNotImplemented: see rpcs.Create.
func TestCreateRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		request *taskapi.CreateTaskRequest
		is      func(error) bool
	}{
		"no id":           {&taskapi.CreateTaskRequest{}, errdefs.IsInvalidArgument},
		"duplicate":       {&taskapi.CreateTaskRequest{ID: "c1"}, errdefs.IsAlreadyExists},
		"checkpoint":      {&taskapi.CreateTaskRequest{ID: "c2", Checkpoint: "/x"}, errdefs.IsInvalidArgument},
		"unknown options": {&taskapi.CreateTaskRequest{ID: "c2", Options: &anypb.Any{TypeUrl: "x.Y"}}, errdefs.IsInvalidArgument},
		"no FIFO":         {&taskapi.CreateTaskRequest{ID: "c2", Stdout: "/nowhere/fifo"}, errdefs.IsNotFound},
		"unknown scheme":  {&taskapi.CreateTaskRequest{ID: "c2", Stdout: "npipe://x"}, errdefs.IsInvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.create("c1")
			if _, err := f.Create(t.Context(), test.request); !test.is(errgrpc.ToNative(toStatus(err))) {
				t.Errorf("got %v", err)
			}
			if len(f.service.tasks) != 1 {
				t.Errorf("something is left: %v", f.service.tasks)
			}
		})
	}
}

// TestCreateWhileUndone has the caller of a Create go, as a containerd that is killed, and the next one ask again while what the first had
// made is being undone.
func TestCreateWhileUndone(t *testing.T) {
	f := newFixture(t)
	f.create("c1")
	creating, undoing, undone := make(chan struct{}), make(chan struct{}), make(chan struct{})
	first := true
	f.fake.sandboxes[0].hold = func(ctx context.Context) error {
		if !first {
			return nil
		}
		first = false
		close(creating)
		<-ctx.Done()
		close(undoing)
		<-undone
		return ctx.Err()
	}
	request := &taskapi.CreateTaskRequest{ID: "c2", Bundle: f.bundle}
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error, 2)
	create := func(ctx context.Context) {
		_, err := f.Create(ctx, request)
		errs <- err
	}
	go create(ctx)
	<-creating
	if _, err := f.Create(t.Context(), request); !errdefs.IsAlreadyExists(err) {
		t.Errorf("while it is made: %v", err)
	}
	cancel()
	<-undoing
	impatient, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Create(impatient, request); !errors.Is(err, context.Canceled) {
		t.Errorf("while it is undone, without patience: %v", err)
	}
	go func() { close(undone) }()
	create(t.Context())
	for range 2 {
		if err := <-errs; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	if _, err := f.Start(t.Context(), &taskapi.StartRequest{ID: "c2"}); err != nil {
		t.Errorf("start of the second: %v", err)
	}
}

func TestCreateFailureCanBeRetried(t *testing.T) {
	f := newFixture(t)
	f.fake.failNew = errors.New("no kernel")
	if _, err := f.Create(t.Context(), &taskapi.CreateTaskRequest{ID: "c1"}); err == nil {
		t.Fatal("no error")
	}
	f.fake.failNew = nil
	f.create("c1")
	f.expectEvents("create c1")
}

// What a panic in a call leaves behind must not keep the server from ending.
func TestCreateThatPanicsCanBeRetried(t *testing.T) {
	f := newFixture(t)
	f.fake.panicNew = true
	func() {
		defer func() { recover() }()
		f.Create(t.Context(), &taskapi.CreateTaskRequest{ID: "c1"})
	}()
	if len(f.service.tasks) != 0 {
		t.Error("the id is still taken")
	}
	f.fake.panicNew = false
	f.create("c1")
}

func TestConcurrentCreatesShareTheSandbox(t *testing.T) {
	f := newFixture(t)
	var group sync.WaitGroup
	for _, id := range []string{"a", "b", "c", "d"} {
		group.Go(func() {
			if _, err := f.Create(t.Context(), &taskapi.CreateTaskRequest{ID: id, Bundle: f.bundle}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if len(f.fake.sandboxes) != 1 {
		t.Errorf("%d sandboxes", len(f.fake.sandboxes))
	}
}

func TestUnknownIsNotFound(t *testing.T) {
	f := newFixture(t)
	f.create("c1")
	ctx := t.Context()
	for name, call := range map[string]func(id, execID string) error{
		"Start": func(id, execID string) error {
			_, err := f.Start(ctx, &taskapi.StartRequest{ID: id, ExecID: execID})
			return err
		},
		"Delete": func(id, execID string) error {
			_, err := f.Delete(ctx, &taskapi.DeleteRequest{ID: id, ExecID: execID})
			return err
		},
		"Kill": func(id, execID string) error {
			_, err := f.Kill(ctx, &taskapi.KillRequest{ID: id, ExecID: execID})
			return err
		},
		"Wait": func(id, execID string) error {
			_, err := f.Wait(ctx, &taskapi.WaitRequest{ID: id, ExecID: execID})
			return err
		},
		"State": func(id, execID string) error {
			_, err := f.State(ctx, &taskapi.StateRequest{ID: id, ExecID: execID})
			return err
		},
		"CloseIO": func(id, execID string) error {
			_, err := f.CloseIO(ctx, &taskapi.CloseIORequest{ID: id, ExecID: execID})
			return err
		},
		"ResizePty": func(id, execID string) error {
			_, err := f.ResizePty(ctx, &taskapi.ResizePtyRequest{ID: id, ExecID: execID})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := call("none", ""); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "none") {
				t.Errorf("unknown container: %v", err)
			}
			if err := call("c1", "none"); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "none") {
				t.Errorf("unknown exec: %v", err)
			}
		})
	}
	for name, call := range map[string]func(id string) error{
		"Exec": func(id string) error {
			_, err := f.Exec(ctx, &taskapi.ExecProcessRequest{ID: id, ExecID: "e"})
			return err
		},
		"Pids":   func(id string) error { _, err := f.Pids(ctx, &taskapi.PidsRequest{ID: id}); return err },
		"Pause":  func(id string) error { _, err := f.Pause(ctx, &taskapi.PauseRequest{ID: id}); return err },
		"Resume": func(id string) error { _, err := f.Resume(ctx, &taskapi.ResumeRequest{ID: id}); return err },
		"Checkpoint": func(id string) error {
			_, err := f.Checkpoint(ctx, &taskapi.CheckpointTaskRequest{ID: id})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := call("none"); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "none") {
				t.Errorf("unknown container: %v", err)
			}
		})
	}
	if response, err := f.Connect(ctx, &taskapi.ConnectRequest{ID: "none"}); err != nil || response.ShimPid != uint32(os.Getpid()) {
		t.Errorf("Connect: %v %v", response, err)
	}
}

func TestStateAndPause(t *testing.T) {
	f := newFixture(t)
	out := makeFIFO(t)
	request := &taskapi.CreateTaskRequest{ID: "c1", Bundle: f.bundle, Stdout: "fifo://" + out, Stderr: out, Terminal: true}
	if _, err := f.Create(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	expect := func(execID string, want tasktypes.Status, code uint32) {
		t.Helper()
		state, err := f.State(t.Context(), &taskapi.StateRequest{ID: "c1", ExecID: execID})
		if err != nil {
			t.Fatal(err)
		}
		if state.Status != want || state.ExitStatus != code {
			t.Errorf("state of %q: %v, want %v", execID, state, want)
		}
		if execID == "" && (state.Stdout != "fifo://"+out || state.Stderr != out || !state.Terminal || state.Pid != 42) {
			t.Errorf("state: %v", state)
		}
	}
	expect("", tasktypes.Status_CREATED, 0)
	f.start("c1", "")
	expect("", tasktypes.Status_RUNNING, 0)
	f.exec("c1", "e1")
	f.start("c1", "e1")
	if _, err := f.Pause(t.Context(), &taskapi.PauseRequest{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	expect("", tasktypes.Status_PAUSED, 0)
	expect("e1", tasktypes.Status_PAUSED, 0)
	if _, err := f.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c1"}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Delete of a paused task: %v", err)
	}
	if _, err := f.Resume(t.Context(), &taskapi.ResumeRequest{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	expect("", tasktypes.Status_RUNNING, 0)
	if _, err := f.Kill(t.Context(), &taskapi.KillRequest{ID: "c1", Signal: 15}); err != nil {
		t.Fatal(err)
	}
	if response, err := f.Wait(t.Context(), &taskapi.WaitRequest{ID: "c1"}); err != nil || response.ExitStatus != 143 {
		t.Errorf("Wait: %v %v", response, err)
	}
	expect("", tasktypes.Status_STOPPED, 143)
	if _, err := f.Kill(t.Context(), &taskapi.KillRequest{ID: "c1", Signal: 9}); !errdefs.IsNotFound(err) {
		t.Errorf("Kill of a stopped task: %v", err)
	}
}

func TestDeleteCanBeRetried(t *testing.T) {
	f := newFixture(t)
	container := f.create("c1")
	f.start("c1", "")
	if _, err := f.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c1"}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Delete of a running task: %v", err)
	}
	container.init.end(runtime.ExitStatus{Code: 5, At: time.Now()})
	container.failDelete = errors.New("busy")
	if _, err := f.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c1"}); err == nil {
		t.Error("no error")
	}
	container.failDelete = nil
	if got := f.remove("c1", "").ExitStatus; got != 5 {
		t.Errorf("Delete says %d", got)
	}
	if _, err := f.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c1"}); !errdefs.IsNotFound(err) {
		t.Errorf("second Delete: %v", err)
	}
	f.expectEvents("create c1", "start c1", "exit c1 5", "delete c1 5")
}

func TestExecIDs(t *testing.T) {
	f := newFixture(t)
	f.create("c1")
	if _, err := f.Exec(t.Context(), &taskapi.ExecProcessRequest{ID: "c1", ExecID: "e"}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("exec before start: %v", err)
	}
	f.start("c1", "")
	f.exec("c1", "e")
	if _, err := f.Exec(t.Context(), &taskapi.ExecProcessRequest{ID: "c1", ExecID: "e"}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("duplicate: %v", err)
	}
	if _, err := f.Kill(t.Context(), &taskapi.KillRequest{ID: "c1", ExecID: "e", Signal: 9}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("kill of an exec before start: %v", err)
	}
	pids, err := f.Pids(t.Context(), &taskapi.PidsRequest{ID: "c1"})
	if err != nil || len(pids.Processes) != 2 {
		t.Fatalf("pids: %v %v", pids, err)
	}
	var details runcoptions.ProcessDetails
	if any := pids.Processes[1].Info; any.TypeUrl != "containerd.runc.v1.ProcessDetails" || any.UnmarshalTo(&details) != nil ||
		details.ExecID != "e" {
		t.Errorf("details: %v", any)
	}
	f.remove("c1", "e")
	f.exec("c1", "e")
}

func TestShutdown(t *testing.T) {
	f := newFixture(t)
	removed := false
	f.closed = func() { removed = true }
	stopping := make(chan struct{})
	f.fake.onStop = func() { <-stopping }
	settled := 0
	f.settle = func() { settled++ }
	shutdown := func() {
		t.Helper()
		if _, err := f.Shutdown(t.Context(), &taskapi.ShutdownRequest{ID: "c1"}); err != nil {
			t.Fatal(err)
		}
	}
	f.create("c1")
	if settled != 1 {
		t.Errorf("settled %d times after a sandbox was made", settled)
	}
	shutdown()
	if removed || f.closing {
		t.Error("shut down under a task")
	}
	f.remove("c1", "")
	shutdown()
	if !removed {
		t.Error("the socket is there after the answer")
	}
	select {
	case <-f.gone:
		t.Error("the process would exit before the sandbox is stopped")
	default:
	}
	close(stopping)
	shutdown() // waits
	if !f.fake.sandboxes[0].stopped {
		t.Error("the sandbox lives on")
	}
	if _, err := f.Create(t.Context(), &taskapi.CreateTaskRequest{ID: "c2"}); !errdefs.IsUnavailable(err) {
		t.Errorf("Create after Shutdown: %v", err)
	}
}

func TestCloseTakesTasksAlong(t *testing.T) {
	f := newFixture(t)
	f.create("c1")
	f.start("c1", "")
	f.create("c2")
	if err := f.close(t.Context()); err != nil {
		t.Fatal(err)
	}
	events := f.events.list() // those of the exits in any order
	slices.Sort(events)
	if want := []string{"create c1", "create c2", "exit c1 137", "exit c2 137", "start c1"}; !slices.Equal(events, want) {
		t.Errorf("events %q", events)
	}
}

func TestCloseGivesUpMakingASandbox(t *testing.T) {
	f := newFixture(t)
	f.fake.blockNew, f.fake.entered = make(chan struct{}), make(chan struct{})
	created := make(chan error)
	go func() {
		_, err := f.Create(context.Background(), &taskapi.CreateTaskRequest{ID: "c1"})
		created <- err
	}()
	<-f.fake.entered
	if err := f.close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-created; !errors.Is(err, context.Canceled) {
		t.Errorf("Create: %v", err)
	}
}

// The whole way through ttrpc: typed errors arrive, a panic is one of them, and Shutdown ends the server and its socket.
func TestServe(t *testing.T) {
	f := newFixture(t)
	path := filepath.Join(t.TempDir(), "s")
	listener, err := listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v %v", info, err)
	}
	f.closed = func() { os.Remove(path) }
	ended := make(chan error)
	go func() { ended <- serveUntilGone(f.service, listener, make(chan os.Signal)) }()
	connection, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(connection)
	defer client.Close()
	tasks := taskapi.NewTTRPCTaskClient(client)

	if _, err := tasks.State(t.Context(), &taskapi.StateRequest{ID: "none"}); !errdefs.IsNotFound(errgrpc.ToNative(err)) {
		t.Errorf("State: %v", err)
	}
	if _, err := tasks.Create(t.Context(), &taskapi.CreateTaskRequest{ID: "c1", Bundle: f.bundle}); err != nil {
		t.Fatal(err)
	}
	if _, err := tasks.Checkpoint(t.Context(), &taskapi.CheckpointTaskRequest{ID: "c1"}); !errdefs.IsNotImplemented(errgrpc.ToNative(err)) {
		t.Errorf("Checkpoint: %v", err)
	}
	f.fake.sandboxes[0].containers["c1"].init.hook = func(*fakeProcess) { panic("a bug") }
	if _, err := tasks.Start(t.Context(), &taskapi.StartRequest{ID: "c1"}); !errdefs.IsInternal(errgrpc.ToNative(err)) {
		t.Errorf("panic: %v", err)
	}
	f.service.forget("c1")
	if _, err := tasks.Shutdown(t.Context(), &taskapi.ShutdownRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is there after Shutdown: %v", err)
	}
	client.Close()
	if err := <-ended; err != nil {
		t.Errorf("server: %v", err)
	}
}

func TestServeEndsOnSignal(t *testing.T) {
	f := newFixture(t)
	listener, err := listen(filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	f.create("c1")
	signals := make(chan os.Signal, 1)
	signals <- unix.SIGTERM
	if err := serveUntilGone(f.service, listener, signals); err != nil {
		t.Fatal(err)
	}
	if !f.fake.sandboxes[0].stopped {
		t.Error("the sandbox was not stopped")
	}
}
