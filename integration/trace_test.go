package integration

import (
	"strings"
	"testing"

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
	end := 0.0
	for _, part := range trace.Parts {
		parts = append(parts, part.Name)
		if part.BeginMS < end || part.MS <= 0 {
			t.Errorf("part %s overlaps the one before or takes no time: %+v", part.Name, trace)
		}
		end = part.BeginMS + part.MS
		for _, stage := range part.Stages {
			stages[part.Name+" "+stage.Name] = true
		}
	}
	if got := strings.Join(parts, " "); got != "sandbox create start exec" {
		t.Errorf("parts %s", got)
	}
	for _, stage := range []string{
		"sandbox state", "sandbox cgroup", "sandbox vsock", "sandbox qemu", "sandbox plug", "sandbox agent",
		"create rootfs", "create prepare", "create anchor", "start run", "start streams", "exec run", "exec streams",
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
