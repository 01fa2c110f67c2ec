package integration

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestStatsCommand shows what a sandbox costs on the host, and what its containers use.
func TestStatsCommand(t *testing.T) {
	s := limpetOnly(t)
	c := s.start([]string{"--memory-limit", "67108864"}, "sh", "-c", "while :; do :; done")
	second := c.joined()
	result := s.limpet("stats", c.id)
	s.must(result.Err())
	s.wantRow(result.Stdout, "NAMESPACE SANDBOX CONTAINER CPU MEMORY OF PROCESSES")
	s.wantRow(result.Stdout, daemon.Namespace, c.id, "-")
	s.wantRow(result.Stdout, daemon.Namespace, c.id, c.id)
	s.wantRow(result.Stdout, daemon.Namespace, c.id, second.id)

	var list []struct {
		ID         string
		CPU        float64 `json:"cpu_percent"`
		Memory     uint64  `json:"memory_bytes"`
		Processes  []struct{ Name string }
		Containers []struct {
			ID        string
			CPU       float64 `json:"cpu_percent"`
			Memory    uint64  `json:"memory_bytes"`
			Limit     *uint64 `json:"memory_limit_bytes"`
			Processes uint64
		}
		Error string
	}
	s.limpetJSON(&list, "stats", "--json", "--interval", "2s")
	if len(list) != 1 || len(list[0].Containers) != 2 || list[0].ID != c.id {
		t.Fatalf("got %+v", list)
	}
	sandbox := list[0]
	var names []string
	for _, process := range sandbox.Processes {
		names = append(names, process.Name)
	}
	if got := strings.Join(names, " "); !strings.HasPrefix(got, "containerd-shim-limpet-v2 qemu virtiofsd") {
		t.Errorf("processes %s", got)
	}
	if sandbox.CPU < 5 || sandbox.Memory < 64<<20 || sandbox.Memory > 1<<30 || sandbox.Error != "" {
		t.Errorf("on the host: %+v", sandbox)
	}
	busy, idle := sandbox.Containers[0], sandbox.Containers[1]
	if busy.ID != c.id || busy.CPU < 5 || busy.CPU > 150 || busy.Memory == 0 || busy.Limit == nil || *busy.Limit != 64<<20 ||
		busy.Processes != 1 {
		t.Errorf("the busy one: %+v", busy)
	}
	if idle.ID != second.id || idle.CPU >= busy.CPU || idle.Limit != nil || idle.Processes != 1 {
		t.Errorf("the idle one: %+v", idle)
	}
	watch := s.startLimpet("stats", "--watch", "--interval", "50ms", c.id)
	for range 3 {
		for !strings.HasPrefix(watch.line(), "NAMESPACE") {
		}
	}
	watch.interrupt()
}

// TestLogsCommand reads the log of a sandbox's agent and kernel.
func TestLogsCommand(t *testing.T) {
	s := limpetOnly(t)
	c := s.sleeper("--privileged")
	follow := s.startLimpet("logs", "--follow", c.id)
	s.must(c.exec(nil, "sh", "-c", "echo limpet: noted >/dev/kmsg").Err())
	for !strings.Contains(follow.line(), "kernel limpet: noted") {
	}
	follow.interrupt()

	result := s.limpet("logs", c.id)
	s.must(result.Err())
	s.wantRow(result.Stdout, "kernel limpet: noted")
	s.wantRow(result.Stdout, "kernel Linux version 6.12")
	s.wantRow(result.Stdout, "command=exec")

	result = s.limpet("logs", "--json", c.id)
	s.must(result.Err())
	last := ""
	for line := range strings.Lines(result.Stdout) {
		var fields struct{ Time, Msg, Source string }
		s.must(json.Unmarshal([]byte(line), &fields))
		if fields.Time < last || fields.Source != "agent" && fields.Source != "kernel" {
			t.Errorf("after %s: %s", last, line)
		}
		last = fields.Time
	}
	until := s.startLimpet("logs", "--follow", c.id)
	until.line()
	s.must(daemon.RemoveAll(s.ctx))
	until.wantExit(0)
}
