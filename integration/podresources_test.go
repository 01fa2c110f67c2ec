package integration

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"sigs.k8s.io/yaml"

	"github.com/limpet-run/limpet/deploy"
	"github.com/limpet-run/limpet/integration/harness"
)

const mebibyte = 1 << 20

// resources are limits of memory in MiB and of processors.
func resources(memory, processors int64) *cri.LinuxContainerResources {
	return &cri.LinuxContainerResources{
		MemoryLimitInBytes: memory * mebibyte, CpuQuota: processors * 100_000, CpuPeriod: 100_000, CpuShares: processors * 1024,
	}
}

// limited starts a container with limits that does nothing.
func (p pod) limited(name string, limits *cri.LinuxContainerResources) string {
	p.Helper()
	config := harness.ContainerConfig(name, "sleep", "1000000")
	config.Linux.Resources = limits
	return p.start(config)
}

// The pod that is measured.
const (
	podMemory     = 512 // MiB
	podProcessors = 1
	// busyFor is how long processors are measured.
	busyFor = 4 * time.Second
)

// podOverhead is what a pod takes besides its containers, as the RuntimeClass tells Kubernetes: MiB, and thousandths of a processor.
func (s *podScope) podOverhead() (memory, milliCPU int64) {
	s.Helper()
	var class struct {
		Overhead struct {
			PodFixed struct{ Memory, CPU string }
		}
	}
	s.must(yaml.Unmarshal([]byte(deploy.RuntimeClass), &class))
	_, memoryErr := fmt.Sscanf(class.Overhead.PodFixed.Memory, "%dMi", &memory)
	_, cpuErr := fmt.Sscanf(class.Overhead.PodFixed.CPU, "%dm", &milliCPU)
	s.must(errors.Join(memoryErr, cpuErr))
	return memory, milliCPU
}

// TestPodWithinLimits has a pod use all that it may, in a cgroup that a kubelet would make for it: with the limit of its containers and
// the overhead. All processes of the pod on the host but the shim are in there, none is ended for want of memory, and the processor time
// that they take is in bounds without a limit on the host.
func TestPodWithinLimits(t *testing.T) {
	eachLimpetMode(t, func(s *podScope) {
		overhead, milliCPU := s.podOverhead()
		config := s.podConfig()
		config.Linux.Resources = resources(podMemory, podProcessors)
		config.Linux.Overhead = &cri.LinuxContainerResources{MemoryLimitInBytes: overhead * mebibyte}
		cgroup := daemon.PodCgroup(config.Metadata.Name)
		s.must(cgroup.Make((podMemory + overhead) * mebibyte))
		p := s.run(config)
		container := p.limited("hungry", resources(podMemory, podProcessors))

		// Nearly all of its memory at once, then as many processors as it gets.
		s.execSync(container, "dd", "if=/dev/zero", "of=/dev/null", fmt.Sprintf("bs=%dM", podMemory*9/10), "count=1")
		busy := fmt.Sprintf("for i in 1 2 3; do timeout %d sh -c 'while :; do :; done' & done; wait", int(busyFor.Seconds()))
		before, err := cgroup.ProcessorTime()
		s.must(err)
		began := time.Now()
		s.execSync(container, "sh", "-c", busy)
		after, err := cgroup.ProcessorTime()
		s.must(err)
		used := (after - before).Seconds() / time.Since(began).Seconds()
		peak, err := cgroup.MemoryPeak()
		s.must(err)
		s.Logf("at most %d MiB of memory, %.2f processors", peak/mebibyte, used)
		if most := podProcessors + float64(milliCPU)/1000; used > most {
			s.Errorf("the pod had %.2f processors, want at most %.2f", used, most)
		}
		kills, err := cgroup.Kills()
		s.must(err)
		if kills > 0 {
			s.Errorf("%d processes were ended for want of memory", kills)
		}

		inside, err := cgroup.Processes()
		s.must(err)
		all, err := daemon.Processes()
		s.must(err)
		for _, process := range all {
			if process.PID != daemon.Pid() && !process.IsShim() && !slices.Contains(inside, process.PID) {
				s.Errorf("process %s is not in the pod's cgroup", process)
			}
		}
	})
}

// TestPodResize changes the limits of a container that runs, up and down, and has the machine follow.
func TestPodResize(t *testing.T) {
	eachLimpetMode(t, func(s *podScope) {
		p := s.run(s.podConfig())
		container := p.limited("elastic", resources(128, 1))
		for _, limits := range []*cri.LinuxContainerResources{resources(512, 3), resources(256, 1)} {
			_, err := daemon.Pods.UpdateContainerResources(s.ctx, &cri.UpdateContainerResourcesRequest{ContainerId: container, Linux: limits})
			s.must(err)
			want := fmt.Sprintf("%d %d %d", limits.MemoryLimitInBytes, limits.CpuQuota, limits.CpuPeriod)
			p.wantExec(want, container, "sh", "-c", "cd "+ownGroup+"; echo $(cat memory.max cpu.max)")
			if got := p.state(container).Resources.GetLinux().GetMemoryLimitInBytes(); got != limits.MemoryLimitInBytes {
				s.Errorf("CRI tells of a limit of %d bytes, want %d", got, limits.MemoryLimitInBytes)
			}
			if limits.MemoryLimitInBytes != 512*mebibyte {
				continue
			}
			// It can use what it has got.
			p.wantExec("3", container, "nproc")
			s.execSync(container, "dd", "if=/dev/zero", "of=/dev/null", "bs=400M", "count=1")
		}
	})
}

// TestPodStats has a pod of two containers do something, and sees that in what CRI tells of pod and containers.
func TestPodStats(t *testing.T) {
	eachMode(t, func(s *podScope) {
		p := s.run(s.podConfig())
		busy := p.limited("busy", resources(128, 1))
		p.sleeper("idle")
		s.execSync(busy, "sh", "-c", "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done")

		answer, err := daemon.Pods.PodSandboxStats(s.ctx, &cri.PodSandboxStatsRequest{PodSandboxId: p.ID})
		s.must(err)
		stats := answer.Stats.GetLinux()
		var sum uint64
		names := []string{}
		for _, container := range stats.Containers {
			names = append(names, container.Attributes.Metadata.Name)
			sum += container.Cpu.GetUsageCoreNanoSeconds().GetValue()
			if container.Memory.GetWorkingSetBytes().GetValue() == 0 {
				s.Errorf("%s has no memory", container.Attributes.Metadata.Name)
			}
		}
		if slices.Sort(names); !slices.Equal(names, []string{"busy", "idle"}) {
			s.Errorf("stats of the containers %q", names)
		}
		if pod := stats.Cpu.GetUsageCoreNanoSeconds().GetValue(); sum == 0 || pod == 0 {
			s.Errorf("the containers had %d ns of processor time, the pod %d", sum, pod)
		}
		if memory := stats.Memory.GetWorkingSetBytes().GetValue(); memory == 0 {
			s.Error("the pod has no memory")
		}
		if name := stats.Network.GetDefaultInterface().GetName(); name != "eth0" {
			s.Errorf("the default interface is %q", name)
		}
		if processes := stats.Process.GetProcessCount().GetValue(); processes < 2 {
			s.Errorf("the pod has %d processes", processes)
		}

		one, err := daemon.Pods.ContainerStats(s.ctx, &cri.ContainerStatsRequest{ContainerId: busy})
		s.must(err)
		if got := one.Stats.Cpu.GetUsageCoreNanoSeconds().GetValue(); got == 0 {
			s.Error("the container had no processor time")
		}
		p.wantMetrics("container_memory_working_set_bytes", "container_cpu_usage_seconds_total")
	})
}

// wantMetrics checks that each of the pod's containers has a value of each metric that is not 0.
func (p pod) wantMetrics(names ...string) {
	p.Helper()
	answer, err := daemon.Pods.ListPodSandboxMetrics(p.ctx, &cri.ListPodSandboxMetricsRequest{})
	p.must(err)
	if len(answer.PodMetrics) != 1 || len(answer.PodMetrics[0].ContainerMetrics) != 2 {
		p.Fatalf("metrics of one pod with two containers: %v", answer)
	}
	for _, container := range answer.PodMetrics[0].ContainerMetrics {
		values := map[string]uint64{}
		for _, metric := range container.Metrics {
			values[metric.Name] = max(values[metric.Name], metric.Value.GetValue())
		}
		for _, name := range names {
			if _, ok := values[name]; !ok {
				p.Errorf("container %s has no metric %s", container.ContainerId, name)
			}
		}
	}
}
