package container

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
)

// groupOf makes a directory look like a control group.
func groupOf(t *testing.T, files map[string]string) cgroup {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cgroup(dir)
}

func TestStats(t *testing.T) {
	number := func(n uint64) *uint64 { return &n }
	for name, test := range map[string]struct {
		files map[string]string
		want  protocol.StatsReport
		fails bool
	}{
		"no group": {},
		"all": {
			files: map[string]string{
				"memory.current": "4096\n", "memory.max": "8192\n", "memory.peak": "5000\n", "memory.stat": "anon 1\nfile 2\n",
				"memory.events": "low 0\noom_kill 3\n", "cpu.stat": "usage_usec 7\nuser_usec 5\n", "pids.current": "2\n", "pids.max": "10\n",
				"io.stat": "8:0 rbytes=1 wbytes=2\n254:16 rbytes=3\n8:16\n",
			},
			want: protocol.StatsReport{
				MemoryCurrent: 4096, MemoryMax: number(8192), MemoryPeak: 5000,
				MemoryStat:   []protocol.Counter{{Name: "anon", Value: 1}, {Name: "file", Value: 2}},
				MemoryEvents: []protocol.Counter{{Name: "low"}, {Name: "oom_kill", Value: 3}},
				CPUStat:      []protocol.Counter{{Name: "usage_usec", Value: 7}, {Name: "user_usec", Value: 5}}, CPUUsageNanos: 7000,
				PidsCurrent: 2, PidsMax: number(10),
				IOStat: []protocol.IOStat{
					{Major: 8, Counters: []protocol.Counter{{Name: "rbytes", Value: 1}, {Name: "wbytes", Value: 2}}},
					{Major: 254, Minor: 16, Counters: []protocol.Counter{{Name: "rbytes", Value: 3}}},
					{Major: 8, Minor: 16},
				},
			},
		},
		"no limits":      {files: map[string]string{"memory.max": "max\n", "pids.max": "max\n"}},
		"not a number":   {files: map[string]string{"memory.current": "many\n"}, fails: true},
		"half a counter": {files: map[string]string{"cpu.stat": "usage_usec\n"}, fails: true},
		"no device":      {files: map[string]string{"io.stat": "sda rbytes=1\n"}, fails: true},
	} {
		got, err := groupOf(t, test.files).stats()
		if (err != nil) != test.fails {
			t.Errorf("%s: %v", name, err)
		}
		if !test.fails && !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s:\n got %+v\nwant %+v", name, got, test.want)
		}
	}
}

// TestRestore takes back a change that went halfway.
func TestRestore(t *testing.T) {
	group := groupOf(t, map[string]string{"memory.max": "max\n", "pids.max": "5\n"})
	before, err := group.contents([]setting{{name: "memory.max"}, {name: "cpu.max"}, {name: "pids.max"}})
	if err != nil || len(before) != 2 {
		t.Fatalf("before: %q, %v", before, err)
	}
	if err := os.WriteFile(group.file("memory.max"), []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := group.restore(before); err != nil {
		t.Fatal(err)
	}
	if after, err := group.contents([]setting{{name: "memory.max"}, {name: "pids.max"}}); err != nil || !reflect.DeepEqual(after, before) {
		t.Errorf("after: %q, %v; want %q", after, err, before)
	}
}

func TestUpdateRefused(t *testing.T) {
	h := newHost(t)
	h.prepare("c")
	for _, test := range []struct {
		id, resources string
		is            func(error) bool
	}{
		{"unknown", `{}`, errdefs.IsNotFound},
		{"c", `null`, errdefs.IsInvalidArgument},
		{"c", `[]`, errdefs.IsInvalidArgument},
		{"c", `{}`, errdefs.IsFailedPrecondition},
	} {
		err := h.set.Update(h.context(), protocol.Update{ContainerID: test.id, Resources: []byte(test.resources)})
		if !test.is(err) {
			t.Errorf("%s, %s: %v", test.id, test.resources, err)
		}
	}
}
