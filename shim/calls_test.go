package shim

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/runtime"
)

// A start that takes long, as in a guest that hangs, keeps no other call waiting, not even on the same process.
func TestCallsDoNotWaitForOthers(t *testing.T) {
	f := newFixture(t)
	container := f.create("c1")
	f.start("c1", "")
	f.exec("c1", "slow")
	f.exec("c1", "e1")
	release := make(chan struct{})
	container.exec("slow").block = release
	started := make(chan error)
	go func() {
		_, err := f.Start(context.Background(), &taskapi.StartRequest{ID: "c1", ExecID: "slow"})
		started <- err
	}()
	f.start("c1", "e1")
	for _, execID := range []string{"", "slow", "e1"} {
		if _, err := f.State(t.Context(), &taskapi.StateRequest{ID: "c1", ExecID: execID}); err != nil {
			t.Error(err)
		}
	}
	if _, err := f.Pids(t.Context(), &taskapi.PidsRequest{ID: "c1"}); err != nil {
		t.Error(err)
	}
	if _, err := f.Connect(t.Context(), &taskapi.ConnectRequest{ID: "c1"}); err != nil {
		t.Error(err)
	}
	if _, err := f.Kill(t.Context(), &taskapi.KillRequest{ID: "c1", ExecID: "e1", Signal: 9}); err != nil {
		t.Error(err)
	}
	if response, err := f.Wait(t.Context(), &taskapi.WaitRequest{ID: "c1", ExecID: "e1"}); err != nil || response.ExitStatus != 137 {
		t.Errorf("%v %v", response, err)
	}
	f.remove("c1", "e1")
	f.create("c2")
	close(release)
	if err := <-started; err != nil {
		t.Error(err)
	}
}

func TestWait(t *testing.T) {
	f := newFixture(t)
	container := f.create("c1")
	f.start("c1", "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Wait(ctx, &taskapi.WaitRequest{ID: "c1"}); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that has gone: %v", err)
	}
	exit := runtime.ExitStatus{Code: 7, At: time.Unix(1e9, 5).UTC()}
	const callers = 20
	said := make(chan *taskapi.WaitResponse, callers)
	for range callers {
		go func() {
			response, err := f.Wait(t.Context(), &taskapi.WaitRequest{ID: "c1"})
			if err != nil {
				t.Error(err)
			}
			said <- response
		}()
	}
	container.init.end(exit)
	for range callers {
		if response := <-said; response.GetExitStatus() != 7 || !response.GetExitedAt().AsTime().Equal(exit.At) {
			t.Errorf("got %v", response)
		}
	}
	if response, err := f.Wait(t.Context(), &taskapi.WaitRequest{ID: "c1"}); err != nil || response.ExitStatus != 7 {
		t.Errorf("after the exit: %v %v", response, err)
	}
	state, err := f.State(t.Context(), &taskapi.StateRequest{ID: "c1"})
	if err != nil || state.ExitStatus != 7 || !state.ExitedAt.AsTime().Equal(exit.At) {
		t.Errorf("state: %v %v", state, err)
	}
	if deleted := f.remove("c1", ""); deleted.ExitStatus != 7 || deleted.Pid != 42 || !deleted.ExitedAt.AsTime().Equal(exit.At) {
		t.Errorf("Delete: %v", deleted)
	}
	if _, err := f.Wait(t.Context(), &taskapi.WaitRequest{ID: "c1"}); !errdefs.IsNotFound(err) {
		t.Errorf("after Delete: %v", err)
	}
}

func TestKillPassesOn(t *testing.T) {
	f := newFixture(t)
	container := f.create("c1")
	f.start("c1", "")
	for _, request := range []*taskapi.KillRequest{{ID: "c1"}, {ID: "c1", Signal: 64, All: true}} {
		if _, err := f.Kill(t.Context(), request); err != nil {
			t.Error(err)
		}
	}
	if want := []string{"0 false", "64 true"}; !slices.Equal(container.init.signals, want) {
		t.Errorf("got %q, want %q", container.init.signals, want)
	}
	f.expectEvents("create c1", "start c1", "exit c1 192")
}

// Without a terminal, and after the end, there is nothing to resize, which is no error.
func TestResizePty(t *testing.T) {
	f := newFixture(t)
	container := f.create("plain")
	f.start("plain", "")
	resize := func(id string) {
		t.Helper()
		if _, err := f.ResizePty(t.Context(), &taskapi.ResizePtyRequest{ID: id, Width: 80, Height: 24}); err != nil {
			t.Error(err)
		}
	}
	resize("plain")
	if container.init.resized != 0 {
		t.Error("what has no terminal was resized")
	}
	if _, err := f.Create(t.Context(), &taskapi.CreateTaskRequest{ID: "terminal", Bundle: f.bundle, Terminal: true}); err != nil {
		t.Fatal(err)
	}
	resize("terminal")
	process := f.fake.sandboxes[0].containers["terminal"].init
	if process.resized != 1 {
		t.Errorf("a terminal was resized %d times", process.resized)
	}
	f.start("terminal", "")
	process.end(runtime.ExitStatus{At: time.Now()})
	f.events.await(t, 5)
	resize("terminal")
	if process.resized != 1 {
		t.Error("the terminal of a process that has ended was resized")
	}
}

func TestCloseIO(t *testing.T) {
	f := newFixture(t)
	fifo := makeFIFO(t)
	if _, err := f.Create(t.Context(), &taskapi.CreateTaskRequest{ID: "c1", Bundle: f.bundle, Stdin: fifo}); err != nil {
		t.Fatal(err)
	}
	stdin := f.fake.sandboxes[0].containers["c1"].init.io.Stdin
	ended := make(chan error, 1)
	go func() {
		_, err := stdin.Read(make([]byte, 1))
		ended <- err
	}()
	closeIO := func(input bool) {
		t.Helper()
		if _, err := f.CloseIO(t.Context(), &taskapi.CloseIORequest{ID: "c1", Stdin: input}); err != nil {
			t.Error(err)
		}
	}
	closeIO(false)
	select {
	case err := <-ended:
		t.Errorf("the input ended without being closed: %v", err)
	default:
	}
	closeIO(true)
	closeIO(true)
	if err := <-ended; err == nil {
		t.Error("the input has not ended")
	}
	f.create("c2") // has none
	if _, err := f.CloseIO(t.Context(), &taskapi.CloseIORequest{ID: "c2", Stdin: true}); err != nil {
		t.Error(err)
	}
}

func TestPauseEvents(t *testing.T) {
	f := newFixture(t)
	container := f.create("c1")
	f.start("c1", "")
	if _, err := f.Pause(t.Context(), &taskapi.PauseRequest{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Resume(t.Context(), &taskapi.ResumeRequest{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	container.init.end(runtime.ExitStatus{At: time.Now()})
	f.expectEvents("create c1", "start c1", "TaskPaused", "TaskResumed", "exit c1 0")
	// A pause that was under way when the container ended.
	if _, err := f.Pause(t.Context(), &taskapi.PauseRequest{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	f.remove("c1", "")
	f.expectEvents("create c1", "start c1", "TaskPaused", "TaskResumed", "exit c1 0", "delete c1 0")
}

// An exec that was made before its container ended cannot be started any more.
func TestStartOfExecAfterTheEnd(t *testing.T) {
	f := newFixture(t)
	container := f.create("c1")
	f.start("c1", "")
	f.exec("c1", "e1")
	container.init.endAlone(runtime.ExitStatus{At: time.Now()})
	f.events.await(t, 4)
	if _, err := f.Start(t.Context(), &taskapi.StartRequest{ID: "c1", ExecID: "e1"}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("got %v", err)
	}
	f.remove("c1", "")
	f.expectEvents("create c1", "start c1", "exec-added e1", "exit c1 0", "delete c1 0")
}
