package shim

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/runtime"
)

func TestEventsOfALife(t *testing.T) {
	f := newFixture(t)
	container := f.create("c1")
	f.start("c1", "")
	f.exec("c1", "e1")
	f.start("c1", "e1")
	container.exec("e1").end(runtime.ExitStatus{Code: 3, At: time.Now()})
	f.events.await(t, 5)
	f.remove("c1", "e1")
	container.init.end(runtime.ExitStatus{Code: 7, At: time.Now()})
	f.events.await(t, 6)
	if got := f.remove("c1", "").ExitStatus; got != 7 {
		t.Errorf("Delete says %d", got)
	}
	f.expectEvents("create c1", "start c1", "exec-added e1", "exec-started e1", "exit e1 3", "exit c1 7", "delete c1 7")
}

// A process that exits before Start has returned.
func TestEventsOfInstantExit(t *testing.T) {
	for range 50 {
		f := newFixture(t)
		f.fake.beforeExit = func(p *fakeProcess) {
			if p.id != "" {
				p.end(runtime.ExitStatus{Code: 1, At: time.Now()})
			}
		}
		container := f.create("c1")
		f.start("c1", "")
		f.exec("c1", "e1")
		f.start("c1", "e1")
		f.events.await(t, 5)
		container.init.end(runtime.ExitStatus{At: time.Now()})
		f.remove("c1", "")
		f.expectEvents("create c1", "start c1", "exec-added e1", "exec-started e1", "exit e1 1", "exit c1 0", "delete c1 0")
	}
}

func TestInitExitIsLast(t *testing.T) {
	f := newFixture(t)
	container := f.create("c1")
	f.start("c1", "")
	for i := range 5 {
		id := fmt.Sprintf("e%d", i)
		f.exec("c1", id)
		f.start("c1", id)
	}
	container.init.end(runtime.ExitStatus{At: time.Now()})
	events := f.events.await(t, 18)
	if events[17] != "exit c1 0" {
		t.Errorf("the init's exit is not the last: %q", events)
	}
	if !slices.Contains(events, "exit e4 137") {
		t.Errorf("execs were not killed with their container: %q", events)
	}
	if _, err := f.Exec(t.Context(), &taskapi.ExecProcessRequest{ID: "c1", ExecID: "late"}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("exec in an ended container: %v", err)
	}
}

func TestDeleteWaitsForExitEvent(t *testing.T) {
	f := newFixture(t)
	container := f.create("c1")
	f.start("c1", "")
	f.exec("c1", "e1")
	f.start("c1", "e1")
	container.init.endAlone(runtime.ExitStatus{At: time.Now()})
	deleted := make(chan error)
	go func() {
		_, err := f.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c1"})
		deleted <- err
	}()
	container.exec("e1").end(runtime.ExitStatus{Code: 9, At: time.Now()})
	if err := <-deleted; err != nil {
		t.Fatal(err)
	}
	f.expectEvents("create c1", "start c1", "exec-added e1", "exec-started e1", "exit e1 9", "exit c1 0", "delete c1 0")
}

func TestOOMComesBeforeExit(t *testing.T) {
	t.Run("told by the exit", func(t *testing.T) {
		f := newFixture(t)
		container := f.create("c1")
		f.start("c1", "")
		container.init.end(runtime.ExitStatus{Code: 137, At: time.Now(), OOM: true})
		f.expectEvents("create c1", "start c1", "oom c1", "exit c1 137")
		f.fake.sandboxes[0].options.OOM("c1") // too late to be told
		f.expectEvents("create c1", "start c1", "oom c1", "exit c1 137")
	})
	t.Run("told by the exit of an exec", func(t *testing.T) {
		f := newFixture(t)
		container := f.create("c1")
		f.start("c1", "")
		f.exec("c1", "e1")
		f.start("c1", "e1")
		container.exec("e1").end(runtime.ExitStatus{Code: 137, At: time.Now(), OOM: true})
		f.expectEvents("create c1", "start c1", "exec-added e1", "exec-started e1", "oom c1", "exit e1 137")
	})
	t.Run("told before", func(t *testing.T) {
		f := newFixture(t)
		container := f.create("c1")
		f.start("c1", "")
		f.fake.sandboxes[0].options.OOM("c1")
		f.fake.sandboxes[0].options.OOM("unknown")
		container.init.end(runtime.ExitStatus{Code: 137, At: time.Now(), OOM: true})
		f.expectEvents("create c1", "start c1", "oom c1", "exit c1 137")
	})
}

func TestEventsWithoutStart(t *testing.T) {
	t.Run("deleted", func(t *testing.T) {
		f := newFixture(t)
		f.create("c1")
		f.remove("c1", "")
		f.expectEvents("create c1", "delete c1 0")
	})
	t.Run("killed", func(t *testing.T) {
		f := newFixture(t)
		f.create("c1")
		if _, err := f.Kill(t.Context(), &taskapi.KillRequest{ID: "c1", Signal: 10}); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("SIGUSR1 before start: %v", err)
		}
		if _, err := f.Kill(t.Context(), &taskapi.KillRequest{ID: "c1", Signal: 9}); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Start(t.Context(), &taskapi.StartRequest{ID: "c1"}); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("start of a killed task: %v", err)
		}
		if got := f.remove("c1", "").ExitStatus; got != 137 {
			t.Errorf("Delete says %d", got)
		}
		f.expectEvents("create c1", "exit c1 137", "delete c1 137")
	})
	t.Run("VM lost", func(t *testing.T) {
		f := newFixture(t)
		container := f.create("c1")
		other := f.create("c2")
		f.start("c2", "")
		f.exec("c2", "e1")
		lost := runtime.ExitStatus{Code: 255, At: time.Now(), Reason: "vm lost"}
		waited := make(chan error, 2)
		for _, request := range []*taskapi.WaitRequest{{ID: "c1"}, {ID: "c2", ExecID: "e1"}} {
			go func() {
				response, err := f.Wait(t.Context(), request)
				if err == nil && response.ExitStatus != 255 {
					err = fmt.Errorf("Wait of %v says %d", request, response.ExitStatus)
				}
				waited <- err
			}()
		}
		container.init.end(lost)
		other.exec("e1").end(lost)
		for range 2 {
			if err := <-waited; err != nil {
				t.Error(err)
			}
		}
		if _, err := f.Start(t.Context(), &taskapi.StartRequest{ID: "c1"}); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("start of a lost task: %v", err)
		}
		if got := f.remove("c1", "").ExitStatus; got != 255 {
			t.Errorf("Delete says %d", got)
		}
		f.expectEvents("create c1", "create c2", "start c2", "exec-added e1", "exit c1 255", "delete c1 255")
	})
	t.Run("failed to start", func(t *testing.T) {
		f := newFixture(t)
		f.create("c1").init.failStart = errors.New("no such program")
		if _, err := f.Start(t.Context(), &taskapi.StartRequest{ID: "c1"}); err == nil {
			t.Fatal("no error")
		}
		if got := f.remove("c1", "").ExitStatus; got != exitCodeFailed {
			t.Errorf("Delete says %d", got)
		}
		f.expectEvents("create c1", "delete c1 255")
	})
}
