package shim

import (
	"math"
	"testing"

	"github.com/containerd/cgroups/v3"
	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	v2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/limpet-run/limpet/runtime"
)

func TestMetrics(t *testing.T) {
	used := runtime.Stats{
		MemoryUsage: 100, MemoryPeak: 200, MemoryLimit: 300, Pids: 4, PidsLimit: 5,
		Memory:       runtime.Counters{"anon": 1, "file": 2, "inactive_file": 3, "workingset_refault_anon": 4, "workingset_refault_file": 5},
		MemoryEvents: runtime.Counters{"oom_kill": 6, "max": 7},
		CPU:          runtime.Counters{"usage_usec": 8, "user_usec": 5, "system_usec": 3, "nr_throttled": 9, "throttled_usec": 10},
		IO:           []runtime.IOStats{{Major: 8, Minor: 1, Counters: runtime.Counters{"rbytes": 11, "wios": 12}}},
	}
	extreme := runtime.Stats{
		MemoryLimit: runtime.NoLimit, PidsLimit: runtime.NoLimit,
		CPU:    runtime.Counters{"usage_usec": math.MaxUint64},
		Memory: runtime.Counters{"workingset_refault_anon": math.MaxUint64, "workingset_refault_file": 1},
	}
	for _, test := range []struct {
		name  string
		stats runtime.Stats
		mode  cgroups.CGMode
		want  proto.Message
	}{
		{"unified", used, cgroups.Unified, &v2.Metrics{
			Pids: &v2.PidsStat{Current: 4, Limit: 5},
			CPU:  &v2.CPUStat{UsageUsec: 8, UserUsec: 5, SystemUsec: 3, NrThrottled: 9, ThrottledUsec: 10},
			Memory: &v2.MemoryStat{
				Anon: 1, File: 2, InactiveFile: 3, WorkingsetRefault: 9, Usage: 100, UsageLimit: 300, MaxUsage: 200,
			},
			MemoryEvents: &v2.MemoryEvents{OomKill: 6, Max: 7},
			Io:           &v2.IOStat{Usage: []*v2.IOEntry{{Major: 8, Minor: 1, Rbytes: 11, Wios: 12}}},
		}},
		{"unified, no limits", extreme, cgroups.Unified, &v2.Metrics{
			Pids:         &v2.PidsStat{Limit: math.MaxUint64},
			CPU:          &v2.CPUStat{UsageUsec: math.MaxUint64},
			Memory:       &v2.MemoryStat{UsageLimit: math.MaxUint64, WorkingsetRefault: math.MaxUint64},
			MemoryEvents: &v2.MemoryEvents{}, Io: &v2.IOStat{},
		}},
		{"hybrid", used, cgroups.Hybrid, &v1.Metrics{
			Pids: &v1.PidsStat{Current: 4, Limit: 5},
			CPU: &v1.CPUStat{
				Usage: &v1.CPUUsage{Total: 8000, User: 5000, Kernel: 3000}, Throttling: &v1.Throttle{ThrottledPeriods: 9, ThrottledTime: 10000},
			},
			Memory: &v1.MemoryStat{
				RSS: 1, TotalRSS: 1, Cache: 2, TotalCache: 2, InactiveFile: 3, TotalInactiveFile: 3, HierarchicalMemoryLimit: 300,
				Usage:  &v1.MemoryEntry{Usage: 100, Limit: 300, Max: 200, Failcnt: 7},
				Swap:   &v1.MemoryEntry{Usage: 100, Limit: 300, Max: 200, Failcnt: 7},
				Kernel: &v1.MemoryEntry{Limit: noLimitV1},
			},
			MemoryOomControl: &v1.MemoryOomControl{OomKill: 6},
			Blkio: &v1.BlkIOStat{
				IoServiceBytesRecursive: []*v1.BlkIOEntry{
					{Op: "Read", Device: "8:1", Major: 8, Minor: 1, Value: 11}, {Op: "Write", Device: "8:1", Major: 8, Minor: 1},
				},
				IoServicedRecursive: []*v1.BlkIOEntry{
					{Op: "Read", Device: "8:1", Major: 8, Minor: 1}, {Op: "Write", Device: "8:1", Major: 8, Minor: 1, Value: 12},
				},
			},
		}},
		{"legacy, no limits", extreme, cgroups.Legacy, &v1.Metrics{
			Pids: &v1.PidsStat{},
			CPU:  &v1.CPUStat{Usage: &v1.CPUUsage{Total: math.MaxUint64}, Throttling: &v1.Throttle{}},
			Memory: &v1.MemoryStat{
				HierarchicalMemoryLimit: 9223372036854771712, Usage: &v1.MemoryEntry{Limit: 9223372036854771712},
				Swap:   &v1.MemoryEntry{Limit: 9223372036854771712},
				Kernel: &v1.MemoryEntry{Limit: 9223372036854771712},
			},
			MemoryOomControl: &v1.MemoryOomControl{}, Blkio: &v1.BlkIOStat{},
		}},
	} {
		if got := metricsOf(test.stats, test.mode); !proto.Equal(got, test.want) {
			t.Errorf("%s:\n got %v\nwant %v", test.name, got, test.want)
		}
	}
}

// TestStats reads the metrics of a container that is there, also after its end, and of others.
func TestStats(t *testing.T) {
	f := newFixture(t)
	container := f.create("c1")
	container.stats = runtime.Stats{MemoryEvents: runtime.Counters{"oom_kill": 1}}
	want := metricsOf(container.stats, cgroups.Mode())
	read := func() {
		t.Helper()
		response, err := f.Stats(t.Context(), &taskapi.StatsRequest{ID: "c1"})
		if err != nil {
			t.Fatal(err)
		}
		got := want.ProtoReflect().New().Interface()
		if err := proto.Unmarshal(response.Stats.Value, got); err != nil || !proto.Equal(got, want) {
			t.Errorf("got %v, %v; want %v", got, err, want)
		}
		if response.Stats.TypeUrl != string(proto.MessageName(want)) {
			t.Errorf("they are of type %s", response.Stats.TypeUrl)
		}
	}
	read()
	f.start("c1", "")
	read()
	container.init.end(runtime.ExitStatus{Code: 137, OOM: true})
	read()
	f.remove("c1", "")
	if _, err := f.Stats(t.Context(), &taskapi.StatsRequest{ID: "c1"}); !errdefs.IsNotFound(err) {
		t.Errorf("of a deleted container: %v", err)
	}
}
