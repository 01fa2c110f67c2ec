package integration

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// sandboxMemory is what limpet stats says of a sandbox's memory.
type sandboxMemory struct {
	ID        string
	Memory    uint64 `json:"memory_bytes"`
	Unmapped  uint64 `json:"unmapped_memory_bytes"`
	Processes []struct {
		Name   string
		Memory uint64 `json:"memory_bytes"`
	}
}

// memory returns what sandboxes cost. To be asked keeps a guest busy for a moment, so it takes its time.
func (s *scope) memory(sandboxes ...string) (list []sandboxMemory) {
	s.Helper()
	s.limpetJSON(&list, "stats", append([]string{"--json", "--interval", "3s"}, sandboxes...)...)
	return list
}

// TestIdleMemory has sandboxes do nothing: together, as they share programs, each costs little.
func TestIdleMemory(t *testing.T) {
	const (
		count   = 10
		mostPSS = 90 << 20 // the processes of a sandbox
		// mostTaken is that and what a clone has got of its template and not used.
		mostTaken = 105 << 20
	)
	s := limpetOnly(t)
	s.configure(map[string]any{"template": map[string]any{"enabled": true, "dir": daemon.TemplateDir()}})
	for range count {
		s.sleeper()
	}
	list := s.memory()
	if len(list) != count {
		t.Fatalf("%d sandboxes run, want %d", len(list), count)
	}
	var pss, taken uint64
	parts := map[string]uint64{}
	for _, sandbox := range list {
		taken += sandbox.Memory / count
		pss += (sandbox.Memory - sandbox.Unmapped) / count
		for _, process := range sandbox.Processes {
			parts[process.Name] += process.Memory / count
		}
	}
	t.Logf("a sandbox takes %d bytes, of which its processes have %d: %v", taken, pss, parts)
	if pss > mostPSS || taken > mostTaken {
		t.Errorf("that is more than %d and %d", mostTaken, mostPSS)
	}
}

// TestCacheGivenBack reads a large file in a sandbox, which keeps it while it is busy, and gives it back when it is idle.
func TestCacheGivenBack(t *testing.T) {
	const (
		size = 96 << 20
		// kept is what may stay of it, and some more for what else the guest has come to use.
		kept = 32<<20 + 8<<20
	)
	s := limpetOnly(t)
	dir := s.TempDir()
	s.must(os.WriteFile(filepath.Join(dir, "file"), make([]byte, size), 0o600))
	c := s.sleeper("--mount", "type=bind,src="+dir+",dst=/data,options=rbind:ro")
	s.must(c.exec(nil, "true").Err())
	before := s.memory(c.id)[0].Memory
	result := c.exec(nil, "sh", "-c", `cat /data/file >/dev/null; grep '^Cached:' /proc/meminfo | { read name kb unit; [ $kb -gt `+
		`98304 ] || echo "$kb kB are cached"; }`)
	s.must(result.Err())
	if result.Stdout != "" {
		t.Fatal(result.Stdout)
	}
	began := time.Now()
	for {
		after := s.memory(c.id)[0].Memory
		if after < before+kept {
			t.Logf("%d bytes, and %d after %s", before, after, time.Since(began).Round(time.Second))
			return
		}
		if s.ctx.Err() != nil {
			t.Fatalf("%d bytes, and %d after %s", before, after, time.Since(began).Round(time.Second))
		}
	}
}
