package shim

import (
	"fmt"
	"math"

	"github.com/containerd/cgroups/v3"
	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	v2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"google.golang.org/protobuf/proto"

	"github.com/limpet-run/limpet/runtime"
)

// metricsOf turns what a container has used into the metrics that the containerd of this host expects: those of its own control
// groups' version, though the guest always has version 2. A hybrid host has version 1.
func metricsOf(stats runtime.Stats, mode cgroups.CGMode) proto.Message {
	if mode == cgroups.Unified {
		return metricsV2(stats)
	}
	return metricsV1(stats)
}

// metricsV2 has the guest's numbers as they are.
func metricsV2(stats runtime.Stats) *v2.Metrics {
	cpu, memory, events := stats.CPU, stats.Memory, stats.MemoryEvents
	metrics := &v2.Metrics{
		Pids: &v2.PidsStat{Current: stats.Pids, Limit: stats.PidsLimit},
		CPU: &v2.CPUStat{
			UsageUsec: cpu["usage_usec"], UserUsec: cpu["user_usec"], SystemUsec: cpu["system_usec"],
			NrPeriods: cpu["nr_periods"], NrThrottled: cpu["nr_throttled"], ThrottledUsec: cpu["throttled_usec"],
			NrBursts: cpu["nr_bursts"], BurstUsec: cpu["burst_usec"],
		},
		Memory: &v2.MemoryStat{
			Anon: memory["anon"], File: memory["file"], KernelStack: memory["kernel_stack"], Slab: memory["slab"], Sock: memory["sock"],
			Shmem: memory["shmem"], FileMapped: memory["file_mapped"], FileDirty: memory["file_dirty"], FileWriteback: memory["file_writeback"],
			AnonThp: memory["anon_thp"], InactiveAnon: memory["inactive_anon"], ActiveAnon: memory["active_anon"],
			InactiveFile: memory["inactive_file"], ActiveFile: memory["active_file"], Unevictable: memory["unevictable"],
			SlabReclaimable: memory["slab_reclaimable"], SlabUnreclaimable: memory["slab_unreclaimable"],
			Pgfault: memory["pgfault"], Pgmajfault: memory["pgmajfault"],
			WorkingsetRefault:     runtime.SumCounters(memory["workingset_refault_anon"], memory["workingset_refault_file"]),
			WorkingsetActivate:    runtime.SumCounters(memory["workingset_activate_anon"], memory["workingset_activate_file"]),
			WorkingsetNodereclaim: memory["workingset_nodereclaim"],
			Pgrefill:              memory["pgrefill"], Pgscan: memory["pgscan"], Pgsteal: memory["pgsteal"], Pgactivate: memory["pgactivate"],
			Pgdeactivate: memory["pgdeactivate"], Pglazyfree: memory["pglazyfree"], Pglazyfreed: memory["pglazyfreed"],
			ThpFaultAlloc: memory["thp_fault_alloc"], ThpCollapseAlloc: memory["thp_collapse_alloc"],
			Usage: stats.MemoryUsage, UsageLimit: stats.MemoryLimit, MaxUsage: stats.MemoryPeak,
		},
		MemoryEvents: &v2.MemoryEvents{
			Low: events["low"], High: events["high"], Max: events["max"], Oom: events["oom"], OomKill: events["oom_kill"],
			OomGroupKill: events["oom_group_kill"],
		},
		Io: &v2.IOStat{},
	}
	for _, device := range stats.IO {
		metrics.Io.Usage = append(metrics.Io.Usage, &v2.IOEntry{
			Major: device.Major, Minor: device.Minor, Rbytes: device.Counters["rbytes"], Wbytes: device.Counters["wbytes"],
			Rios: device.Counters["rios"], Wios: device.Counters["wios"],
		})
	}
	return metrics
}

// noLimitV1 is how version 1 writes that memory has no limit: the largest number of whole pages.
const noLimitV1 = math.MaxInt64 &^ (4096 - 1)

// metricsV1 puts the guest's numbers where version 1 has what comes nearest. Its "total" numbers are of the whole tree of groups, as all
// of the guest's are.
func metricsV1(stats runtime.Stats) *v1.Metrics {
	cpu, memory, events := stats.CPU, stats.Memory, stats.MemoryEvents
	limit := min(stats.MemoryLimit, noLimitV1)
	pids := stats.PidsLimit
	if pids == runtime.NoLimit {
		pids = 0
	}
	usage := &v1.MemoryEntry{Limit: limit, Usage: stats.MemoryUsage, Max: stats.MemoryPeak, Failcnt: events["max"]}
	metrics := &v1.Metrics{
		Pids: &v1.PidsStat{Current: stats.Pids, Limit: pids},
		CPU: &v1.CPUStat{
			Usage: &v1.CPUUsage{Total: nanos(cpu["usage_usec"]), Kernel: nanos(cpu["system_usec"]), User: nanos(cpu["user_usec"])},
			Throttling: &v1.Throttle{
				Periods: cpu["nr_periods"], ThrottledPeriods: cpu["nr_throttled"], ThrottledTime: nanos(cpu["throttled_usec"]),
			},
		},
		Memory: &v1.MemoryStat{
			Cache: memory["file"], RSS: memory["anon"], RSSHuge: memory["anon_thp"], MappedFile: memory["file_mapped"],
			Dirty: memory["file_dirty"], Writeback: memory["file_writeback"], PgFault: memory["pgfault"], PgMajFault: memory["pgmajfault"],
			InactiveAnon: memory["inactive_anon"], ActiveAnon: memory["active_anon"], InactiveFile: memory["inactive_file"],
			ActiveFile: memory["active_file"], Unevictable: memory["unevictable"], HierarchicalMemoryLimit: limit,
			TotalCache: memory["file"], TotalRSS: memory["anon"], TotalRSSHuge: memory["anon_thp"], TotalMappedFile: memory["file_mapped"],
			TotalDirty: memory["file_dirty"], TotalWriteback: memory["file_writeback"], TotalPgFault: memory["pgfault"],
			TotalPgMajFault: memory["pgmajfault"], TotalInactiveAnon: memory["inactive_anon"], TotalActiveAnon: memory["active_anon"],
			TotalInactiveFile: memory["inactive_file"], TotalActiveFile: memory["active_file"], TotalUnevictable: memory["unevictable"],
			Usage:  usage,
			Swap:   usage, // of memory and swap together, of which the guest has none
			Kernel: &v1.MemoryEntry{Limit: noLimitV1, Usage: memory["kernel"]},
		},
		MemoryOomControl: &v1.MemoryOomControl{OomKill: events["oom_kill"]},
		Blkio:            &v1.BlkIOStat{},
	}
	for _, device := range stats.IO {
		for _, entry := range []struct {
			target *[]*v1.BlkIOEntry
			op     string
			value  uint64
		}{
			{&metrics.Blkio.IoServiceBytesRecursive, "Read", device.Counters["rbytes"]},
			{&metrics.Blkio.IoServiceBytesRecursive, "Write", device.Counters["wbytes"]},
			{&metrics.Blkio.IoServicedRecursive, "Read", device.Counters["rios"]},
			{&metrics.Blkio.IoServicedRecursive, "Write", device.Counters["wios"]},
		} {
			*entry.target = append(*entry.target, &v1.BlkIOEntry{
				Op: entry.op, Device: fmt.Sprintf("%d:%d", device.Major, device.Minor), Major: device.Major, Minor: device.Minor, Value: entry.value,
			})
		}
	}
	return metrics
}

// nanos turns microseconds into nanoseconds, at most as many as there can be.
func nanos(micros uint64) uint64 {
	if micros > math.MaxUint64/1000 {
		return math.MaxUint64
	}
	return micros * 1000
}
