package integration

import (
	"strconv"
	"strings"
	"testing"

	cgroups "github.com/containerd/cgroups/v3"
	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	v2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// ownGroup is the directory of a container's control group as its processes see it.
const ownGroup = `/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)`

// seesGroups are the flags of ctr for a container that sees control groups.
var seesGroups = []string{"--mount", "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro"}

// limits is a command that prints the container's limits of memory, processor and processes.
var limits = []string{"sh", "-c", "cd " + ownGroup + "; cat memory.max cpu.max cpu.weight pids.max | tr '\\n' ' '"}

// hog uses 128 MiB of memory, which is more than the limit of any container here.
var hog = []string{"dd", "if=/dev/zero", "of=/dev/null", "bs=128M", "count=1"}

const smallMemory = "33554432" // 32 MiB

// TestLimits reads limits where the guest's kernel holds them.
func TestLimits(t *testing.T) {
	s := limpetOnly(t)
	for _, test := range []struct {
		name, want string
		flags      []string
	}{
		{"none", "max max 100000 39 max ", nil}, // ctr asks for 1024 shares
		{"memory", smallMemory + " max 100000 39 max ", []string{"--memory-limit", smallMemory}},
		{"cpu", "max 50000 200000 79 max ", []string{"--cpu-quota", "50000", "--cpu-period", "200000", "--cpu-shares", "2048"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := s.output(append(test.flags, seesGroups...), limits...); got != test.want {
				t.Errorf("the limits are %q, want %q", got, test.want)
			}
		})
	}
}

// memTotal is a command that prints a machine's memory in KiB.
const memTotal = `sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo`

// machineSize asks a container how many processors and how many MiB of memory its machine has.
func (c container) machineSize() (processors, memory int) {
	c.Helper()
	result := c.exec(nil, "sh", "-c", "nproc; "+memTotal)
	c.must(result.Err())
	lines := strings.Fields(result.Stdout)
	if len(lines) != 2 {
		c.Fatalf("the container wrote %q", result.Stdout)
	}
	processors, err := strconv.Atoi(lines[0])
	c.must(err)
	kibibytes, err := strconv.Atoi(lines[1])
	c.must(err)
	return processors, kibibytes >> 10
}

// wantMachine checks a machine's size; memory is in MiB, and what the kernel takes of it does not count.
func (c container) wantMachine(when string, processors, least, most int) {
	c.Helper()
	got, memory := c.machineSize()
	if got != processors || memory < least || memory > most {
		c.Errorf("%s: the machine has %d processors and %d MiB, want %d and %d to %d", when, got, memory, processors, least, most)
	}
}

// TestMachineFollowsContainers has a machine grow with a container that joins, and shrink with it; processors stay.
func TestMachineFollowsContainers(t *testing.T) {
	s := limpetOnly(t)
	first := s.sleeper()
	first.wantMachine("at the start", 2, 150, 256)
	second := first.joined("--cpus", "4", "--memory-limit", "2147483648")
	for _, c := range []container{first, second} {
		c.wantMachine("with a second container", 4, 2048, 2048+384)
	}
	// It can use what it asked for.
	s.must(second.exec(nil, "dd", "if=/dev/zero", "of=/dev/null", "bs=1500M", "count=1").Err())
	second.kill(unix.SIGKILL)
	second.wait("")
	second.deleteTask()
	// The guest gives memory back in the background, so this looks again.
	s.must(first.exec(nil, "sh", "-c", "while [ $("+memTotal+") -gt 1048576 ]; do sleep 0.1; done").Err())
	first.wantMachine("without it", 4, 150, 1024)
}

// TestMachineBounds has a container that asks for more than the configuration lets a machine have.
func TestMachineBounds(t *testing.T) {
	s := limpetOnly(t)
	s.configure(map[string]any{"vm": map[string]any{"max_vcpus": 3, "max_memory_mib": 512}})
	c := s.sleeper("--cpus", "4", "--memory-limit", "2147483648")
	c.wantMachine("bounded", 3, 400, 512)
}

// update asks containerd to change the container's limits.
func (c container) update(resources string) error {
	_, err := daemon.Tasks.Update(daemon.Context(c.ctx), &tasks.UpdateTaskRequest{
		ContainerID: c.id,
		Resources:   &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources", Value: []byte(resources)},
	})
	return err
}

func (c container) wantLimits(when, want string) {
	c.Helper()
	result := c.exec(nil, limits...)
	c.must(result.Err())
	if result.Stdout != want {
		c.Errorf("%s: the limits are %q, want %q", when, result.Stdout, want)
	}
}

// TestUpdateResources changes limits before the start, while it runs and while it is paused, and not at all where that makes no sense.
func TestUpdateResources(t *testing.T) {
	s := limpetOnly(t)
	flags := append([]string{"--memory-limit", "67108864", "--cpu-quota", "50000", "--cpu-period", "200000"}, seesGroups...)
	c := s.create(flags, "sleep", "1000000")
	c.createTask(&tasks.CreateTaskRequest{})
	s.must(c.update(`{"memory":{"limit":` + smallMemory + `}}`))
	c.startTask("")
	c.wantLimits("updated before the start", smallMemory+" 50000 200000 100 max ")

	s.must(c.update(`{"cpu":{"quota":100000},"pids":{"limit":20}}`))
	const updated = smallMemory + " 100000 200000 100 20 "
	c.wantLimits("updated", updated)
	s.must(c.exec(nil, "sh", "-c", "echo text >/dev/null; head -c 1 /dev/zero >/dev/null").Err())

	for _, test := range []struct {
		resources string
		is        func(error) bool
	}{
		{`{"memory":{"limit":-5}}`, errdefs.IsInvalidArgument},
		{`{"memory":{"limit":33554432,"swap":5}}`, errdefs.IsInvalidArgument},
		{`{"pids":{"limit":30},"cpu":{"period":5}}`, errdefs.IsInvalidArgument},
		{`{"pids":{"limit":30},"blockIO":{"weight":10}}`, errdefs.IsNotImplemented},
		{`{"pids":{"limit":30},"cpu":{"cpus":"0"}}`, errdefs.IsNotImplemented},
		{`{"pids":{"limit":30},"unified":{"memory.nonsense":"5"}}`, func(err error) bool { return err != nil }},
		{`nonsense`, errdefs.IsInvalidArgument},
		{`null`, errdefs.IsInvalidArgument},
	} {
		if err := c.update(test.resources); !test.is(err) || !strings.Contains(err.Error(), c.id) {
			t.Errorf("update with %s: %v", test.resources, err)
		}
	}
	c.wantLimits("after what was refused", updated)
	result := c.exec(nil, "sh", "-c", "for i in $(seq 40); do sleep 1000 </dev/null >/dev/null 2>&1 & done")
	if !strings.Contains(result.Stderr, "can't fork") {
		t.Errorf("40 processes where 20 are allowed: %v", result)
	}

	_, err := daemon.Tasks.Pause(daemon.Context(s.ctx), &tasks.PauseTaskRequest{ContainerID: c.id})
	s.must(err)
	s.must(c.update(`{"memory":{"limit":-1},"cpu":{"quota":300000,"period":100000},"pids":{"limit":-1}}`))
	_, err = daemon.Tasks.Resume(daemon.Context(s.ctx), &tasks.ResumeTaskRequest{ContainerID: c.id})
	s.must(err)
	c.wantLimits("updated while paused", "max 300000 100000 100 max ")
	c.wantMachine("with three CPUs", 3, 150, 256)

	c.kill(unix.SIGKILL)
	c.wait("")
	if err := c.update(`{}`); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("update of one that has ended: %v", err)
	}
}

// use is what the container's metrics say, in the type that this host's containerd is to get.
type use struct{ memory, limit, cpu, pids, oomKills uint64 }

func (c container) metrics() use {
	c.Helper()
	response, err := daemon.Tasks.Metrics(daemon.Context(c.ctx), &tasks.MetricsRequest{Filters: []string{"id==" + c.id}})
	c.must(err)
	if len(response.Metrics) != 1 {
		c.Fatalf("metrics of %d containers, want one", len(response.Metrics))
	}
	data := response.Metrics[0].Data
	if cgroups.Mode() == cgroups.Unified {
		var m v2.Metrics
		c.unpack(data, "io.containerd.cgroups.v2.Metrics", &m)
		return use{m.Memory.Usage, m.Memory.UsageLimit, m.CPU.UsageUsec * 1000, m.Pids.Current, m.MemoryEvents.OomKill}
	}
	var m v1.Metrics
	c.unpack(data, "io.containerd.cgroups.v1.Metrics", &m)
	return use{m.Memory.Usage.Usage, m.Memory.Usage.Limit, m.CPU.Usage.Total, m.Pids.Current, m.MemoryOomControl.OomKill}
}

func (c container) unpack(data *anypb.Any, url string, message proto.Message) {
	c.Helper()
	if data.TypeUrl != url {
		c.Fatalf("the metrics are of type %s, want %s", data.TypeUrl, url)
	}
	c.must(proto.Unmarshal(data.Value, message))
}

// TestMetrics reads what a container uses: before its start, while it runs, paused, and after its end until it is deleted.
func TestMetrics(t *testing.T) {
	s := limpetOnly(t)
	c := s.create([]string{"--memory-limit", smallMemory}, "sleep", "1000000")
	c.createTask(&tasks.CreateTaskRequest{})
	if got := c.metrics(); got.cpu != 0 || got.pids != 0 {
		t.Errorf("before the start: %+v", got)
	}
	c.startTask("")
	running := c.metrics()
	if running.memory == 0 || running.memory > running.limit || running.limit != 32<<20 || running.cpu == 0 || running.pids != 1 ||
		running.oomKills != 0 {
		t.Errorf("while it runs: %+v", running)
	}
	result := daemon.Ctr(s.ctx, "task", "metrics", c.id)
	s.must(result.Err())
	if !strings.Contains(result.Stdout, "pids.current") {
		t.Errorf("ctr shows %q", result.Stdout)
	}
	c.kill(unix.SIGKILL)
	c.wait("")
	if got := c.metrics(); got.cpu < running.cpu || got.pids != 0 {
		t.Errorf("after the end: %+v", got)
	}
	c.deleteTask()
	result = daemon.Ctr(s.ctx, "task", "metrics", c.id)
	wantError(t, result.Stderr, "not found")
}

// TestOutOfMemory has a container go over its limit. It is killed, which is told before its end; another one in the same machine
// lives on.
func TestOutOfMemory(t *testing.T) {
	s := limpetOnly(t)
	recorder := s.record()
	neighbour := s.sleeper()
	c := neighbour.joined("--memory-limit", smallMemory)
	s.must(neighbour.exec(nil, hog...).Err()) // the machine has that much
	result := c.exec(nil, hog...)
	if result.Code != 137 {
		t.Errorf("the process over the limit ends with %d, want 137: %v", result.Code, result)
	}
	s.await(recorder, c.id, "oom", "exit")
	if got := c.metrics(); got.oomKills == 0 {
		t.Errorf("the metrics know of no kill: %+v", got)
	}
	for _, alive := range []container{neighbour, c} {
		s.must(alive.exec(nil, "true").Err())
	}
}

// TestOutOfMemoryInit has a container's first process go over the limit.
func TestOutOfMemoryInit(t *testing.T) {
	s := limpetOnly(t)
	recorder := s.record()
	neighbour := s.sleeper()
	c := s.create(append(neighbour.pod(), "--memory-limit", smallMemory), hog...)
	c.createTask(&tasks.CreateTaskRequest{})
	c.startTask("")
	if got := c.wait(""); got != 137 {
		t.Errorf("it ends with %d, want 137", got)
	}
	if got := c.metrics(); got.oomKills == 0 {
		t.Errorf("after its end the metrics know of no kill: %+v", got)
	}
	if got := c.deleteTask(); got != 137 {
		t.Errorf("Delete says %d, want 137", got)
	}
	s.wantEvents(recorder, c.id, "create", "start", "oom", "exit", "delete")
	s.must(neighbour.exec(nil, "true").Err())
}
