package integration

import (
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"

	limpet "github.com/limpet-run/limpet/runtime"
)

// TestTrace shows how long the start of a sandbox took, for people and for programs, and nothing of one that is gone.
func TestTrace(t *testing.T) {
	s := limpetOnly(t)
	c := s.sleeper()
	s.must(c.exec(nil, "true").Err())
	s.must(c.joined().exec(nil, "true").Err()) // in no trace

	var trace limpet.Trace
	s.limpetJSON(&trace, "trace", "--json", c.id)
	if trace.ID != c.id || trace.Namespace != daemon.Namespace || trace.Began.IsZero() {
		t.Errorf("got %+v", trace)
	}
	stages := map[string]bool{}
	var parts []string
	begin := 0.0
	for _, part := range trace.Parts {
		parts = append(parts, part.Name)
		if part.BeginMS < begin || part.MS <= 0 {
			t.Errorf("part %s begins before the one before or takes no time: %+v", part.Name, trace)
		}
		begin = part.BeginMS
		for _, stage := range part.Stages {
			stages[part.Name+" "+stage.Name] = true
		}
	}
	if got := strings.Join(parts, " "); got != "shim sandbox create start exec" {
		t.Errorf("parts %s", got)
	}
	greeting := "sandbox " + limpet.StageAgent
	if trace.Template != "" {
		greeting = "sandbox " + limpet.StageWake
	}
	for _, stage := range []string{
		"shim exec start", "shim start", "shim exec serve", "shim serve", "shim call", "sandbox state", "sandbox cgroup",
		"sandbox vsock", "sandbox qemu", "sandbox plug", greeting, "sandbox handshake",
		"create rootfs", "create share", "create prepare", "create anchor", "start run", "start streams", "exec run", "exec streams",
	} {
		if !stages[stage] {
			t.Errorf("there is no %s: %+v", stage, trace)
		}
	}
	for _, args := range [][]string{nil, {c.id}} {
		result := s.limpet("trace", args...)
		s.must(result.Err())
		wantError(t, result.Stdout, c.id, daemon.Namespace)
	}

	line := `msg="sandbox started" runtime=io.containerd.limpet.v2 namespace=` + daemon.Namespace + " sandbox=" + c.id + " "
	if n := strings.Count(daemon.Log(), line); n != 1 {
		t.Errorf("the log has %d lines of the sandbox's start", n)
	}

	s.must(daemon.RemoveAll(s.ctx))
	result := s.limpet("trace", c.id)
	if result.Code != 1 {
		t.Errorf("exit status %d for a sandbox that is gone", result.Code)
	}
	wantError(t, result.Stderr, c.id, daemon.StateDir())
}

// loggedTrace is the trace of a sandbox that is gone.
func (s *scope) loggedTrace(id string) (found limpet.Trace) {
	s.Helper()
	traces, err := limpet.LoggedTraces(strings.NewReader(daemon.Log()))
	s.must(err)
	for _, trace := range traces {
		if trace.ID == id && trace.Namespace == daemon.Namespace {
			found = trace
		}
	}
	if found.ID == "" {
		s.Fatalf("the log has no trace of %s", id)
	}
	return found
}

// minCovered is the part of a start's time that a trace has to account for. The rest is containerd's before it starts the shim, and between
// its calls.
const minCovered = 0.95

// TestTraceCoversStart compares the trace of a start with a clock, from containerd's call to the first byte of output. It is read after the
// sandbox's end.
func TestTraceCoversStart(t *testing.T) {
	s := limpetOnly(t)
	stdout := s.fifo()
	output := s.openFIFO(stdout)
	c := s.create(nil, "echo", "x")
	began := time.Now()
	c.createTask(&tasks.CreateTaskRequest{Stdout: stdout, Stderr: stdout})
	c.startTask("")
	_, err := output.Read(make([]byte, 1))
	took := float64(time.Since(began).Microseconds()) / 1000
	s.must(err)
	c.wait("")
	c.deleteTask()

	trace := s.loggedTrace(c.id)
	if trace.Began.Before(began) {
		t.Errorf("the trace begins at %s, before the call at %s", trace.Began, began)
	}
	var parts []string
	start := limpet.Trace{}
	for _, part := range trace.Parts {
		parts = append(parts, part.Name)
		switch part.Name {
		case limpet.PartExit, limpet.PartDelete, limpet.PartStop:
		default:
			start.Parts = append(start.Parts, part)
		}
	}
	got := strings.Replace(strings.Join(parts, " "), "output start", "start output", 1) // they begin at the same time
	if got != "shim sandbox create start output exit delete stop" {
		t.Fatalf("parts %s", got)
	}
	covered := 0.0
	for _, part := range start.Parts {
		covered = max(covered, part.BeginMS+part.MS)
	}
	for _, gap := range start.Elsewhere() {
		covered -= gap.MS
	}
	for _, part := range start.Parts {
		covered -= part.Other()
	}
	t.Logf("the trace accounts for %.1f ms of %.1f", covered, took)
	if covered < minCovered*took || covered > took {
		t.Errorf("the trace accounts for %.1f ms of %.1f: %+v", covered, took, trace)
	}
}
