package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/guest/protocol"
)

var trueProcess = []byte(`{"args": ["true"], "cwd": "/"}`)

func TestProcessLife(t *testing.T) {
	w := newTestSandbox(t)
	stdout := newBuffer()
	container := w.create(t, IO{Stdout: stdout})
	init := container.Init()
	if status := init.Status(); status.State != StateCreated || status.PID != init.PID() || init.PID() <= 0 {
		t.Errorf("created: %+v", status)
	}
	if err := init.Kill(t.Context(), 15, false); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("kill before start: %v", err)
	}
	if err := init.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := init.Start(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a second start: %v", err)
	}
	if status := init.Status(); status.State != StateRunning {
		t.Errorf("running: %+v", status)
	}
	if _, err := container.Delete(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("delete while running: %v", err)
	}
	if err := init.Kill(t.Context(), 15, true); err != nil {
		t.Error(err)
	}
	if signals := got[protocol.Signal](w.fakeGuest); len(signals) != 1 ||
		signals[0] != (protocol.Signal{RequestID: init.request, Signal: 15, All: true}) {
		t.Errorf("signals: %+v", signals)
	}
	run := got[protocol.Run](w.fakeGuest)[0]
	if run.ContainerID != "c1" || run.Rootfs != "/run/limpet/share/c1/rootfs" || len(run.Spec) == 0 || run.Streams.Stdin != nil ||
		run.Streams.Stderr != nil {
		t.Errorf("run: %+v", run)
	}
	say(t, w.fakeGuest.stream(t, *run.Streams.Stdout), "hello")
	w.events.StreamEnd(protocol.StreamEnd{RequestID: init.request, Stream: "stdout", Bytes: 5})
	w.exit(init, 7)
	w.exit(init, 8) // only the first word counts
	if status := waitExit(t, init); status.Code != 7 || status.Reason != "exited" {
		t.Errorf("exit: %+v", status)
	}
	if stdout.String() != "hello" {
		t.Errorf("stdout: %q", stdout)
	}
	wait(t, stdout.closed, "stdout closed")
	if err := init.Kill(t.Context(), 9, false); !errdefs.IsNotFound(err) {
		t.Errorf("kill after the end: %v", err)
	}
	if status, err := container.Delete(t.Context()); err != nil || status.Code != 7 {
		t.Errorf("delete: %+v, %v", status, err)
	}
	if _, err := container.Delete(t.Context()); !errdefs.IsNotFound(err) {
		t.Errorf("a second delete: %v", err)
	}
	if _, err := w.Container("c1"); !errdefs.IsNotFound(err) {
		t.Errorf("a deleted container: %v", err)
	}
}

func TestExec(t *testing.T) {
	w := newTestSandbox(t)
	container := w.create(t, IO{})
	options := ExecOptions{ID: "e1", Spec: trueProcess}
	if _, err := container.Exec(t.Context(), options); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("exec before start: %v", err)
	}
	if err := container.Init().Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	exec, err := container.Exec(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := container.Exec(t.Context(), options); !errdefs.IsAlreadyExists(err) {
		t.Errorf("the same identifier again: %v", err)
	}
	for _, broken := range []string{"{", "{}"} {
		if _, err := container.Exec(t.Context(), ExecOptions{ID: "e2", Spec: []byte(broken)}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("broken process: %v", err)
		}
	}
	if err := exec.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if pids := container.Pids(); len(pids) != 2 || pids[1] != (Pid{uint32(exec.PID()), "e1"}) {
		t.Errorf("pids: %+v", pids)
	}
	if _, err := exec.Delete(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("delete while running: %v", err)
	}
	w.exit(exec, 3)
	if status := waitExit(t, exec); status.Code != 3 {
		t.Errorf("exit: %+v", status)
	}
	if status, err := exec.Delete(t.Context()); err != nil || status.Code != 3 {
		t.Errorf("delete: %+v, %v", status, err)
	}
	if _, err := exec.Delete(t.Context()); !errdefs.IsNotFound(err) {
		t.Errorf("a deleted exec: %v", err)
	}
	if _, err := container.Exec(t.Context(), options); err != nil {
		t.Errorf("the identifier of a deleted exec: %v", err)
	}
}

// TestPidsUntilDeleted has a container whose init has ended: as long as it is there it has a pid.
func TestPidsUntilDeleted(t *testing.T) {
	w := newTestSandbox(t)
	container := w.run(t, IO{})
	w.exit(container.Init(), 0)
	waitExit(t, container.Init())
	if pids := container.Pids(); len(pids) != 1 || pids[0] != (Pid{PID: uint32(container.Init().PID())}) {
		t.Errorf("ended: %+v", pids)
	}
	if _, err := container.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if pids := container.Pids(); len(pids) > 0 {
		t.Errorf("deleted: %+v", pids)
	}
}

// TestInitEndsLast has the agent report init's end before its exec's.
func TestInitEndsLast(t *testing.T) {
	w := newTestSandbox(t)
	container := w.run(t, IO{})
	exec, err := container.Exec(t.Context(), ExecOptions{ID: "e1", Spec: trueProcess})
	if err != nil {
		t.Fatal(err)
	}
	if err := exec.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.exit(container.Init(), 0)
	select {
	case <-container.Init().exited:
		t.Error("init ended while its exec ran")
	default:
	}
	if _, err := container.Exec(t.Context(), ExecOptions{ID: "e2", Spec: trueProcess}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("exec while init ends: %v", err)
	}
	w.exit(exec, 137)
	waitExit(t, container.Init())
	select {
	case <-exec.exited:
	default:
		t.Error("init ended before its exec")
	}
}

func TestPause(t *testing.T) {
	w := newTestSandbox(t)
	container := w.run(t, IO{})
	if err := container.Resume(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("resume while running: %v", err)
	}
	if err := container.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status := container.Init().Status(); status.State != StatePaused {
		t.Errorf("paused: %+v", status)
	}
	if _, err := container.Exec(t.Context(), ExecOptions{ID: "e1", Spec: trueProcess}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("exec while paused: %v", err)
	}
	if _, err := container.Delete(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("delete while paused: %v", err)
	}
	if err := container.Init().Kill(t.Context(), 9, false); err != nil {
		t.Errorf("kill while paused: %v", err)
	}
	if err := container.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status := container.Init().Status(); status.State != StateRunning {
		t.Errorf("resumed: %+v", status)
	}
}

func TestStartFails(t *testing.T) {
	w := newTestSandbox(t)
	w.fakeGuest.answer = func(_ context.Context, message protocol.HostMessage) (protocol.GuestMessage, error) {
		if _, ok := message.(protocol.Run); ok {
			return nil, fmt.Errorf("no such program: sh: %w", errdefs.ErrNotFound)
		}
		return nil, nil
	}
	stdout := newBuffer()
	container := w.create(t, IO{Stdout: stdout})
	err := container.Init().Start(t.Context())
	if !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	wait(t, stdout.closed, "stdout closed")
	if status := waitExit(t, container.Init()); status.Reason != "start failed" {
		t.Errorf("exit: %+v", status)
	}
	if _, err := container.Delete(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestExitBeforeStarted has the agent report the exit before its answer to the start is there.
func TestExitBeforeStarted(t *testing.T) {
	w := newTestSandbox(t)
	w.fakeGuest.answer = func(_ context.Context, message protocol.HostMessage) (protocol.GuestMessage, error) {
		if run, ok := message.(protocol.Run); ok {
			w.events.Exit(protocol.Exit{RequestID: run.RequestID, Code: 1})
		}
		return nil, nil
	}
	container := w.run(t, IO{})
	if status := waitExit(t, container.Init()); status.Code != 1 {
		t.Errorf("exit: %+v", status)
	}
}

func TestStdin(t *testing.T) {
	w := newTestSandbox(t)
	reader, writer := io.Pipe()
	container := w.run(t, IO{Stdin: reader})
	go func() {
		_, _ = io.WriteString(writer, "hi\n")
		writer.Close()
	}()
	stream := w.fakeGuest.stream(t, *got[protocol.Run](w.fakeGuest)[0].Streams.Stdin)
	text, err := io.ReadAll(stream) // until the host closes
	if err != nil || string(text) != "hi\n" {
		t.Errorf("got %q, %v", text, err)
	}
	w.exit(container.Init(), 0)
	waitExit(t, container.Init())
}

// TestStuckReader has nobody read the output of a process that ends.
func TestStuckReader(t *testing.T) {
	w := newTestSandbox(t)
	reader, writer := io.Pipe()
	defer reader.Close()
	container := w.run(t, IO{Stdout: writer})
	init := container.Init()
	say(t, w.fakeGuest.stream(t, *got[protocol.Run](w.fakeGuest)[0].Streams.Stdout), "hello")
	w.events.StreamEnd(protocol.StreamEnd{RequestID: init.request, Stream: "stdout", Bytes: 5})
	w.exit(init, 137)
	waitExit(t, init)
	text := make([]byte, 5) // what it wrote is still there
	if _, err := io.ReadFull(reader, text); err != nil || string(text) != "hello" {
		t.Errorf("got %q, %v", text, err)
	}
	if n, err := reader.Read(text); err != io.EOF {
		t.Errorf("got %d bytes, %v", n, err)
	}
}

// TestVMLostUnread has nobody read the output of a process whose machine ends: neither its end nor its removal waits for that.
func TestVMLostUnread(t *testing.T) {
	w := newTestSandbox(t)
	reader, writer := io.Pipe()
	defer reader.Close()
	container := w.run(t, IO{Stdout: writer})
	say(t, w.fakeGuest.stream(t, *got[protocol.Run](w.fakeGuest)[0].Streams.Stdout), "hello")
	began := time.Now()
	w.fakeMachine.end(errors.New("killed"))
	waitExit(t, container.Init())
	if took := time.Since(began); took >= exitDrain {
		t.Errorf("the end took %s", took)
	}
	if _, err := container.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took >= deleteDrain/2 {
		t.Errorf("the removal took %s", took)
	}
}

// TestSessionOver ends the session with the agent for good, and not the machine.
func TestSessionOver(t *testing.T) {
	w := newTestSandbox(t)
	container := w.run(t, IO{})
	if err := w.fakeGuest.Close(); err != nil {
		t.Fatal(err)
	}
	if status := waitExit(t, container.Init()); status.Code != 255 || status.Reason != "vm lost" {
		t.Errorf("exit: %+v", status)
	}
	wait(t, w.fakeMachine.ended, "the machine's end")
}

func TestResize(t *testing.T) {
	w := newTestSandbox(t)
	w.bundle = writeBundle(t, func(spec *specs.Spec) { spec.Process.ConsoleSize = &specs.Box{Width: 80, Height: 24} })
	stderr := newBuffer()
	container := w.create(t, IO{Stdout: newBuffer(), Stderr: stderr, Terminal: true})
	wait(t, stderr.closed, "a terminal has no stderr")
	init := container.Init()
	if err := init.Resize(t.Context(), 100, 30); err != nil {
		t.Error(err)
	}
	if err := init.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if run := got[protocol.Run](w.fakeGuest)[0]; run.Size == nil || *run.Size != (protocol.Size{Cols: 100, Rows: 30}) || !run.Terminal {
		t.Errorf("run: %+v", run)
	}
	if err := init.Resize(t.Context(), 120, 40); err != nil {
		t.Error(err)
	}
	if resized := got[protocol.Resize](w.fakeGuest); len(resized) != 1 || resized[0].Size != (protocol.Size{Cols: 120, Rows: 40}) {
		t.Errorf("resized: %+v", resized)
	}
	if err := init.Resize(t.Context(), 70000, 1); !errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v", err)
	}
}

func TestVMLost(t *testing.T) {
	w := newTestSandbox(t)
	stdout := newBuffer()
	container := w.run(t, IO{Stdout: stdout})
	exec, err := container.Exec(t.Context(), ExecOptions{ID: "e1", Spec: trueProcess})
	if err != nil {
		t.Fatal(err)
	}
	if err := exec.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	idle, err := container.Exec(t.Context(), ExecOptions{ID: "e2", Spec: trueProcess})
	if err != nil {
		t.Fatal(err)
	}
	var waiters sync.WaitGroup
	for _, p := range []*Process{container.Init(), exec, idle, container.Init()} {
		waiters.Go(func() {
			if status := waitExit(t, p); status.Code != 255 || status.Reason != "vm lost" {
				t.Errorf("%s: %+v", p, status)
			}
		})
	}
	w.fakeMachine.end(errors.New("killed"))
	waiters.Wait()
	wait(t, stdout.closed, "stdout closed")
	wait(t, w.fakeGuest.closed, "session closed")
	if err := container.Init().Kill(t.Context(), 9, false); !errdefs.IsNotFound(err) {
		t.Errorf("kill: %v", err)
	}
	if _, err := container.Exec(t.Context(), ExecOptions{ID: "e3", Spec: trueProcess}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("exec: %v", err)
	}
	if _, err := w.CreateContainer(t.Context(), ContainerOptions{ID: "c2", Bundle: w.bundle}); !errdefs.IsUnavailable(err) {
		t.Errorf("create: %v", err)
	}
	pid := container.Init().PID()
	if status, err := container.Delete(t.Context()); err != nil || status.Code != 255 {
		t.Errorf("delete: %+v, %v", status, err)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the anchor lives: %v", err)
	}
}

func TestOOM(t *testing.T) {
	w := newTestSandbox(t)
	container := w.run(t, IO{})
	w.events.Event(protocol.Event{Kind: "oom", ContainerID: "stranger"})
	w.events.Event(protocol.Event{Kind: "oom", ContainerID: "c1"})
	w.events.Exit(protocol.Exit{RequestID: 99})
	if len(w.oom) != 1 || w.oom[0] != "c1" {
		t.Errorf("got %v", w.oom)
	}
	w.events.Exit(protocol.Exit{RequestID: container.Init().request, Code: 1000, OOM: true, Reason: "oom\x1b[2J"})
	if status := waitExit(t, container.Init()); status.Code != 255 || !status.OOM || status.Reason != "oom?[2J" || status.At.IsZero() {
		t.Errorf("exit: %+v", status)
	}
}
