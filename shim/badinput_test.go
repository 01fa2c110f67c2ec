package shim

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/limpet-run/limpet/runtime"
)

// TestBadInput makes calls that are wrong, or come at the wrong time. Each has an error of its class that names container or exec, is
// published nowhere, and leaves every state as it was.
func TestBadInput(t *testing.T) {
	const far = 65
	for _, test := range []struct {
		name   string
		call   func(ctx context.Context, f *fixture) error
		is     func(error) bool
		saying string
	}{
		{"create: taken id", func(ctx context.Context, f *fixture) error {
			_, err := f.Create(ctx, &taskapi.CreateTaskRequest{ID: "running"})
			return err
		}, errdefs.IsAlreadyExists, "running"},
		{"create: options of a foreign type", func(ctx context.Context, f *fixture) error {
			_, err := f.Create(ctx, &taskapi.CreateTaskRequest{ID: "new", Options: &anypb.Any{TypeUrl: "acme.Options"}})
			return err
		}, errdefs.IsInvalidArgument, "acme.Options"},
		{"create: options that are not what they say", func(ctx context.Context, f *fixture) error {
			name := string(proto.MessageName(&runcoptions.Options{}))
			_, err := f.Create(ctx, &taskapi.CreateTaskRequest{ID: "new", Options: &anypb.Any{TypeUrl: name, Value: []byte{7}}})
			return err
		}, errdefs.IsInvalidArgument, "new"},
		{"create: a FIFO that is not there", func(ctx context.Context, f *fixture) error {
			_, err := f.Create(ctx, &taskapi.CreateTaskRequest{ID: "new", Stdin: "/nowhere/in"})
			return err
		}, errdefs.IsNotFound, `container new: stdin: FIFO "/nowhere/in"`},
		{"create: a logging binary that is not there", func(ctx context.Context, f *fixture) error {
			_, err := f.Create(ctx, &taskapi.CreateTaskRequest{ID: "new", Stdout: "binary:///nowhere/logger"})
			return err
		}, errdefs.IsInvalidArgument, "container new: stdout: logging binary"},
		{"create: a logging binary that fails", func(ctx context.Context, f *fixture) error {
			_, err := f.Create(ctx, &taskapi.CreateTaskRequest{ID: "new", Stdout: "binary-v2:///bin/false"})
			return err
		}, errdefs.IsFailedPrecondition, "container new: stdout: logging binary"},
		{"start twice", func(ctx context.Context, f *fixture) error {
			_, err := f.Start(ctx, &taskapi.StartRequest{ID: "running"})
			return err
		}, errdefs.IsFailedPrecondition, "running"},
		{"start after the end", func(ctx context.Context, f *fixture) error {
			_, err := f.Start(ctx, &taskapi.StartRequest{ID: "stopped"})
			return err
		}, errdefs.IsFailedPrecondition, "stopped"},
		{"start an exec twice", func(ctx context.Context, f *fixture) error {
			_, err := f.Start(ctx, &taskapi.StartRequest{ID: "running", ExecID: "e-running"})
			return err
		}, errdefs.IsFailedPrecondition, "exec e-running"},
		{"delete while running", func(ctx context.Context, f *fixture) error {
			_, err := f.Delete(ctx, &taskapi.DeleteRequest{ID: "running"})
			return err
		}, errdefs.IsFailedPrecondition, "running"},
		{"delete while paused", func(ctx context.Context, f *fixture) error {
			_, err := f.Delete(ctx, &taskapi.DeleteRequest{ID: "paused"})
			return err
		}, errdefs.IsFailedPrecondition, "paused"},
		{"delete an exec while running", func(ctx context.Context, f *fixture) error {
			_, err := f.Delete(ctx, &taskapi.DeleteRequest{ID: "running", ExecID: "e-running"})
			return err
		}, errdefs.IsFailedPrecondition, "exec e-running"},
		{"exec: no id", func(ctx context.Context, f *fixture) error {
			_, err := f.Exec(ctx, &taskapi.ExecProcessRequest{ID: "running"})
			return err
		}, errdefs.IsInvalidArgument, "running"},
		{"exec: taken id", func(ctx context.Context, f *fixture) error {
			_, err := f.Exec(ctx, &taskapi.ExecProcessRequest{ID: "running", ExecID: "e-running"})
			return err
		}, errdefs.IsAlreadyExists, "exec e-running of container running"},
		{"exec: a FIFO that is not there", func(ctx context.Context, f *fixture) error {
			_, err := f.Exec(ctx, &taskapi.ExecProcessRequest{ID: "running", ExecID: "new", Stdout: "/nowhere/out"})
			return err
		}, errdefs.IsNotFound, `exec new of container running: stdout: FIFO "/nowhere/out"`},
		{"exec before the start", func(ctx context.Context, f *fixture) error {
			_, err := f.Exec(ctx, &taskapi.ExecProcessRequest{ID: "created", ExecID: "new"})
			return err
		}, errdefs.IsFailedPrecondition, "container created"},
		{"exec while paused", func(ctx context.Context, f *fixture) error {
			_, err := f.Exec(ctx, &taskapi.ExecProcessRequest{ID: "paused", ExecID: "new"})
			return err
		}, errdefs.IsFailedPrecondition, "container paused is paused"},
		{"exec after the end", func(ctx context.Context, f *fixture) error {
			_, err := f.Exec(ctx, &taskapi.ExecProcessRequest{ID: "stopped", ExecID: "new"})
			return err
		}, errdefs.IsFailedPrecondition, "container stopped"},
		{"signal above 64", func(ctx context.Context, f *fixture) error {
			_, err := f.Kill(ctx, &taskapi.KillRequest{ID: "running", Signal: far})
			return err
		}, errdefs.IsInvalidArgument, "signal 65 to init process of container running"},
		{"signal above 64 before the start", func(ctx context.Context, f *fixture) error {
			_, err := f.Kill(ctx, &taskapi.KillRequest{ID: "created", Signal: far})
			return err
		}, errdefs.IsInvalidArgument, "container created"},
		{"signal 0 before the start", func(ctx context.Context, f *fixture) error {
			_, err := f.Kill(ctx, &taskapi.KillRequest{ID: "created"})
			return err
		}, errdefs.IsFailedPrecondition, "container created"},
		{"signal to an exec before its start", func(ctx context.Context, f *fixture) error {
			_, err := f.Kill(ctx, &taskapi.KillRequest{ID: "running", ExecID: "e-created", Signal: 9})
			return err
		}, errdefs.IsFailedPrecondition, "exec e-created"},
		{"signal after the end", func(ctx context.Context, f *fixture) error {
			_, err := f.Kill(ctx, &taskapi.KillRequest{ID: "stopped", Signal: 9, All: true})
			return err
		}, errdefs.IsNotFound, "stopped"},
		{"checkpoint", func(ctx context.Context, f *fixture) error {
			_, err := f.Checkpoint(ctx, &taskapi.CheckpointTaskRequest{ID: "running"})
			return err
		}, errdefs.IsNotImplemented, "running"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t)
			f.everyState()
			before := f.events.list()
			states := f.states()
			err := test.call(t.Context(), f)
			if err == nil || !test.is(err) || !strings.Contains(err.Error(), test.saying) {
				t.Errorf("got %v, want it to say %q", err, test.saying)
			}
			if after := f.events.list(); !slices.Equal(after, before) {
				t.Errorf("published: %q", after[len(before):])
			}
			if after := f.states(); after != states {
				t.Errorf("the states were\n%s\nand are\n%s", states, after)
			}
		})
	}
}

// everyState makes a container in each state, named by it, and two execs.
func (f *fixture) everyState() {
	f.Helper()
	for _, id := range []string{"created", "running", "paused", "stopped"} {
		container := f.create(id)
		if id == "created" {
			continue
		}
		f.start(id, "")
		switch id {
		case "paused":
			if _, err := f.Pause(f.Context(), &taskapi.PauseRequest{ID: id}); err != nil {
				f.Fatal(err)
			}
		case "stopped":
			container.init.end(runtime.ExitStatus{Code: 3, At: time.Now()})
			if _, err := f.Wait(f.Context(), &taskapi.WaitRequest{ID: id}); err != nil {
				f.Fatal(err)
			}
		}
	}
	f.exec("running", "e-created")
	f.exec("running", "e-running")
	f.start("running", "e-running")
}

// states says in which state each process is.
func (f *fixture) states() string {
	f.Helper()
	var states strings.Builder
	f.mu.Lock()
	fmt.Fprintf(&states, "%d containers; ", len(f.tasks))
	f.mu.Unlock()
	for _, request := range []*taskapi.StateRequest{
		{ID: "created"}, {ID: "running"}, {ID: "paused"}, {ID: "stopped"},
		{ID: "running", ExecID: "e-created"}, {ID: "running", ExecID: "e-running"}, {ID: "running", ExecID: "new"},
	} {
		state, err := f.State(f.Context(), request)
		fmt.Fprintf(&states, "%s%s: %v %d %v; ", request.ID, request.ExecID, state.GetStatus(), state.GetExitStatus(), err)
	}
	return states.String()
}
