package container

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/guest/protocol"
)

func TestRunOutputExit(t *testing.T) {
	h := newHost(t)
	k := h.run("c", h.spec("sh", "-c", "echo out; echo err >&2; exit 7"))
	if exit := k.wait(); exit.Code != 7 || exit.Reason != "exited" || exit.ExitedAt == 0 {
		t.Errorf("exit %+v", exit)
	}
	want := []string{"end 1 stdout 4", "end 1 stderr 4", "exit 1"}
	got := h.notes()
	slices.Sort(got[:2])
	slices.Sort(want[:2])
	if !slices.Equal(got, want) {
		t.Errorf("heard %q, want %q", got, want)
	}
	if out, err := io.ReadAll(io.LimitReader(k.stdout, 4)); string(out) != "out\n" || err != nil {
		t.Errorf("stdout %q, %v", out, err)
	}
	if err := h.set.Signal(protocol.Signal{RequestID: 1, Signal: 9}); err != nil {
		t.Errorf("signal to an ended process: %v", err)
	}
	if err := h.set.Remove(protocol.Remove{ContainerID: "c"}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat("/sys/fs/cgroup/limpet-c"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("control group after remove: %v", err)
	}
	if entries, _ := os.ReadDir(h.set.Dir); len(entries) != 0 {
		t.Errorf("left after remove: %v", entries)
	}
	if err := h.set.Signal(protocol.Signal{RequestID: 1, Signal: 9}); !errdefs.IsNotFound(err) {
		t.Errorf("signal to a removed process: %v", err)
	}
}

func TestStdinToStdout(t *testing.T) {
	h := newHost(t)
	k := h.run("c", h.spec("cat"))
	const size = 8 << 20
	data := strings.Repeat("0123456789abcde\n", size/16)
	go func() {
		io.WriteString(k.stdin, data)
		k.stdin.Close()
	}()
	got := make([]byte, size)
	if _, err := io.ReadFull(k.stdout, got); err != nil || string(got) != data {
		t.Fatalf("round trip: %v", err)
	}
	if exit := k.wait(); exit.Code != 0 {
		t.Errorf("exit %+v", exit)
	}
}

func TestSignals(t *testing.T) {
	h := newHost(t)
	k := h.run("c", h.spec("sh", "-c", "trap 'exit 3' TERM; echo up; while :; do sleep 0.01; done"))
	k.expect("up")
	x := h.exec("c", h.spec("sleep", "1000").Process)
	if err := h.set.Signal(protocol.Signal{RequestID: x.id, Signal: 15}); err != nil {
		t.Fatal(err)
	}
	if exit := x.wait(); exit.Code != 143 || exit.Reason != "signal: 15" {
		t.Errorf("exit of the exec %+v", exit)
	}
	if err := h.set.Signal(protocol.Signal{RequestID: k.id, Signal: 15}); err != nil {
		t.Fatal(err)
	}
	if exit := k.wait(); exit.Code != 3 {
		t.Errorf("exit %+v", exit)
	}
	if err := h.set.Signal(protocol.Signal{RequestID: 99, Signal: 15}); !errdefs.IsNotFound(err) {
		t.Errorf("unknown process: %v", err)
	}
	for _, wrong := range []protocol.Signal{
		{RequestID: 99, Signal: 65}, {RequestID: 99, Signal: -65}, {RequestID: 99, Signal: -9, All: true},
	} {
		if err := h.set.Signal(wrong); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", wrong, err)
		}
	}
}

func TestKillAllEndsExecsBeforeInit(t *testing.T) {
	h := newHost(t)
	k := h.run("c", h.spec("sleep", "1000"))
	x := h.exec("c", h.spec("sh", "-c", "sleep 1000 & sleep 1000").Process)
	if err := h.set.Signal(protocol.Signal{RequestID: k.id, Signal: 9, All: true}); err != nil {
		t.Fatal(err)
	}
	if exit := k.wait(); exit.Code != 137 || exit.Reason != "killed" || exit.OOM {
		t.Errorf("exit %+v", exit)
	}
	if exit := x.wait(); exit.Code != 137 {
		t.Errorf("exit of the exec %+v", exit)
	}
	if notes := h.notes(); notes[len(notes)-1] != "exit 1" {
		t.Errorf("the init's exit is not the last: %q", notes)
	}
}

func TestExitWithOutputHeldAndUnread(t *testing.T) {
	h := newHost(t)
	k := h.run("c", h.spec("sleep", "1000"))
	held := h.exec("c", h.spec("sh", "-c", "sleep 1000 & exit 5").Process)
	if exit := held.wait(); exit.Code != 5 {
		t.Errorf("exit with the pipe held %+v", exit)
	}
	unread := h.exec("c", h.spec("sh", "-c", "cat /dev/zero").Process)
	if err := h.set.Signal(protocol.Signal{RequestID: unread.id, Signal: 9}); err != nil {
		t.Fatal(err)
	}
	if exit := unread.wait(); exit.Code != 137 {
		t.Errorf("exit with output unread %+v", exit)
	}
	if err := h.set.Signal(protocol.Signal{RequestID: k.id, Signal: 9}); err != nil {
		t.Fatal(err)
	}
	k.wait()
	if err := h.set.Remove(protocol.Remove{ContainerID: "c"}); err != nil {
		t.Error(err)
	}
}

func TestExecsAtOnce(t *testing.T) {
	h := newHost(t)
	h.run("c", h.spec("sleep", "1000"))
	var tasks []*task
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range 50 {
		raw := h.spec("sh", "-c", fmt.Sprintf("echo %d; exit %d", i, i)).Process
		wg.Go(func() {
			mu.Lock()
			k, streams := h.newTask(false)
			tasks = append(tasks, k)
			mu.Unlock()
			process, err := marshal(raw)
			if err != nil {
				t.Error(err)
				return
			}
			k.process, err = h.set.Exec(h.context(), protocol.Exec{RequestID: k.id, ContainerID: "c", Process: process, Streams: streams})
			if err != nil {
				t.Error(err)
				return
			}
			k.process.Announce()
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	codes := map[int32]bool{}
	for _, k := range tasks {
		out := k.output("stdout")
		exit := k.wait()
		if out != fmt.Sprintf("%d\n", exit.Code) {
			t.Errorf("output %q of the exec that ended with %d", out, exit.Code)
		}
		codes[exit.Code] = true
	}
	if len(codes) != 50 {
		t.Errorf("%d different exit codes, want 50", len(codes))
	}
}

func TestFailedStarts(t *testing.T) {
	h := newHost(t)
	h.prepare("c")
	if _, err := h.tryRun("c", h.spec("no-such-program"), nil); err == nil || !strings.Contains(err.Error(), "no-such-program") {
		t.Errorf("missing program: %v", err)
	}
	if entries, _ := os.ReadDir(h.set.Dir); len(entries) != 0 {
		t.Errorf("left after a failed start: %v", entries)
	}
	if _, err := os.Stat("/sys/fs/cgroup/limpet-c"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("control group after a failed start: %v", err)
	}
	if _, err := h.tryRun("c", h.spec("sleep", "1000"), nil); err != nil {
		t.Fatalf("start after a failed one: %v", err)
	}
	if _, err := h.tryExec("c", h.spec("no-such-program", "x").Process, nil); err == nil || !strings.Contains(err.Error(), "no-such-program") {
		t.Errorf("exec of a missing program: %v", err)
	}
	if _, err := h.tryExec("c", h.spec("/proc").Process, nil); err == nil || !strings.Contains(err.Error(), "/proc") {
		t.Errorf("exec of a directory: %v", err)
	}
	badCwd := h.spec("true").Process
	badCwd.Cwd = "/nowhere"
	if _, err := h.tryExec("c", badCwd, nil); err == nil || !strings.Contains(err.Error(), "/nowhere") {
		t.Errorf("exec in a missing directory: %v", err)
	}
	if exit := h.exec("c", h.spec("true").Process).wait(); exit.Code != 0 {
		t.Errorf("the container after failed execs: %+v", exit)
	}
	if err := h.set.Remove(protocol.Remove{ContainerID: "c"}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("remove while it runs: %v", err)
	}
	if _, err := h.tryRun("c", h.spec("true"), nil); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("second run: %v", err)
	}
	if _, err := h.tryExec("other", h.spec("true").Process, nil); !errdefs.IsNotFound(err) {
		t.Errorf("exec in an unknown container: %v", err)
	}
}

func TestPauseResumePidsStats(t *testing.T) {
	h := newHost(t)
	k := h.run("c", h.spec("sh", "-c", "sleep 1000 & echo up; wait"))
	k.expect("up")
	list, err := h.set.Pids(protocol.ListPids{ContainerID: "c"})
	if err != nil || len(list.Pids) != 2 {
		t.Fatalf("pids %+v, %v", list, err)
	}
	if !slices.ContainsFunc(list.Pids, func(p protocol.ProcessInfo) bool { return p.RequestID == k.id }) {
		t.Errorf("no init in %+v", list)
	}
	if err := h.set.Pause(h.context(), protocol.Pause{ContainerID: "c"}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.tryExec("c", h.spec("true").Process, nil); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("exec while paused: %v", err)
	}
	if err := h.set.Remove(protocol.Remove{ContainerID: "c"}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("remove while paused: %v", err)
	}
	if err := h.set.Resume(h.context(), protocol.Resume{ContainerID: "c"}); err != nil {
		t.Fatal(err)
	}
	if err := h.set.Pause(h.context(), protocol.Pause{ContainerID: "c"}); err != nil {
		t.Fatal(err)
	}
	report, err := h.set.Stats(protocol.Stats{ContainerID: "c"})
	if err != nil || report.CPUUsageNanos == 0 {
		t.Errorf("stats %+v, %v", report, err)
	}
	if err := h.set.Signal(protocol.Signal{RequestID: k.id, Signal: 9}); err != nil {
		t.Fatal(err)
	}
	if exit := k.wait(); exit.Code != 137 {
		t.Errorf("killed while paused: %+v", exit)
	}
}

func TestStop(t *testing.T) {
	h := newHost(t)
	polite := h.run("polite", h.spec("sh", "-c", "trap 'exit 0' TERM; echo up; while :; do sleep 0.01; done"))
	polite.expect("up")
	rude := h.run("rude", h.spec("sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done"))
	rude.expect("up")
	if err := h.set.Stop(h.context(), 1e9); err != nil {
		t.Error(err)
	}
	if exit := polite.wait(); exit.Code != 0 {
		t.Errorf("exit %+v", exit)
	}
	if exit := rude.wait(); exit.Code != 137 {
		t.Errorf("exit %+v", exit)
	}
	if err := h.set.Prepare(h.context(), protocol.Prepare{ContainerID: "new", Rootfs: "polite/rootfs"}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("prepare while stopping: %v", err)
	}
}

func TestTerminal(t *testing.T) {
	h := newHost(t)
	spec := h.spec("sh", "-c", "stty size; tty; exec sh -i")
	spec.Process.Terminal = true
	h.prepare("c")
	k, err := h.tryRun("c", spec, &protocol.Size{Cols: 81, Rows: 25})
	if err != nil {
		t.Fatal(err)
	}
	k.expect("25 81")
	if err := h.set.Resize(protocol.Resize{RequestID: k.id, Size: protocol.Size{Cols: 132, Rows: 50}}); err != nil {
		t.Fatal(err)
	}
	k.say("stty size\n")
	k.expect("50 132")
	k.say("sh -c 'echo star''ted; exec sleep 1000'\n")
	k.expect("started")
	k.say("\x03")
	k.expect("# ")
	k.say("echo alive=$((6*7))\n")
	k.expect("alive=42")
	k.expect("# ") // the shell reads from here on
	testTerminalExec(h, spec.Process)
	k.stdin.Close()
	if err := h.set.CloseStdin(protocol.CloseStdin{RequestID: k.id}); err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, k.stdout)
	k.wait()
}

func testTerminalExec(h *host, base *specs.Process) {
	h.t.Helper()
	process := *base
	process.Args = []string{"sh", "-c", "stty size; cat; exit 9"}
	x, err := h.tryExec("c", &process, &protocol.Size{Cols: 60, Rows: 10})
	if err != nil {
		h.t.Fatal(err)
	}
	x.expect("10 60")
	x.say("partial")
	x.expect("partial")
	x.stdin.Close()
	if err := h.set.CloseStdin(protocol.CloseStdin{RequestID: x.id}); err != nil {
		h.t.Fatal(err)
	}
	if exit := x.wait(); exit.Code != 9 {
		h.t.Errorf("exit of a terminal's exec: %+v", exit)
	}
}
