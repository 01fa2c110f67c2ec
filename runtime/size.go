package runtime

import (
	"fmt"
	"iter"
	"runtime"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/runtime/config"
	"github.com/limpet-run/limpet/runtime/oci"
)

const (
	mebibyte = 1 << 20
	// defaultPeriod is the period of a processor quota that names none, in microseconds: the kernel's.
	defaultPeriod = 100000
	// sharesPerCPU is how many shares CRI gives for a requested processor.
	sharesPerCPU = 1024
	// minDefaultVCPUs is how many processors a machine can have on a host that has fewer: a container that asks for some more is to
	// have them, and they are cheap.
	minDefaultVCPUs = 4
	// bareMemoryMiB is how much memory a clone starts with, unless it is to have less.
	bareMemoryMiB = 256
	// describedPerByte is how many bytes of memory the guest's kernel describes with one: a page of 4096 with 64.
	describedPerByte = 4096 / 64
)

// size is how large a machine is.
type size struct {
	vcpus       int
	addedMemory int // MiB, beside what it started with: a multiple of hypervisor.MemoryStepMiB
}

// demand is what a container asks of its machine.
type demand struct {
	milliCPUs uint64 // thousandths of a processor; 0: it takes what there is
	memory    uint64 // bytes; 0: it has no limit
}

// demandOf reads a container's limits. A set of the host's processors asks for as many of the guest's.
func demandOf(resources *specs.LinuxResources) demand {
	var d demand
	if resources == nil {
		return d
	}
	if cpu := resources.CPU; cpu != nil {
		period := uint64(defaultPeriod)
		if cpu.Period != nil && *cpu.Period > 0 {
			period = *cpu.Period
		}
		switch {
		case cpu.Quota != nil && *cpu.Quota > 0:
			// A quota that is longer than years is no more than one of the largest machine.
			quota := min(uint64(*cpu.Quota), config.MaxVCPUs*period)
			d.milliCPUs = quota * 1000 / period
		case cpu.Cpus != "":
			d.milliCPUs = uint64(countSet(cpu.Cpus)) * 1000
		}
	}
	if memory := resources.Memory; memory != nil && memory.Limit != nil && *memory.Limit > 0 {
		d.memory = uint64(*memory.Limit)
	}
	return d
}

// podDemand is what a pod's containers come to, as far as that is known before there are any. Without a quota it is what they request,
// which they are to have at least.
func podDemand(pod *oci.Pod) demand {
	d := demandOf(&pod.Resources)
	if cpu := pod.Resources.CPU; d.milliCPUs == 0 && cpu != nil && cpu.Shares != nil {
		d.milliCPUs = min(*cpu.Shares, config.MaxVCPUs*sharesPerCPU) * 1000 / sharesPerCPU
	}
	return d
}

// most is what covers both demands, while one replaces the other. No limit of memory asks for less than any.
func (d demand) most(other demand) demand {
	return demand{max(d.milliCPUs, other.milliCPUs), max(d.memory, other.memory)}
}

// countSet counts a list of numbers and ranges such as "0-3,7", at most as far as a machine goes. What is no number counts nothing:
// the host's kernel judges such lists.
func countSet(list string) (count int) {
	for part := range strings.SplitSeq(list, ",") {
		low, high, isRange := strings.Cut(strings.TrimSpace(part), "-")
		first, err := strconv.ParseUint(low, 10, 16)
		last := first
		if err == nil && isRange {
			last, err = strconv.ParseUint(high, 10, 16)
		}
		if err == nil && last >= first {
			count += int(last-first) + 1
		}
	}
	return min(count, config.MaxVCPUs)
}

// frame is between what sizes a machine can be.
type frame struct {
	vcpus, memory       int // what it starts with; memory in MiB
	maxVCPUs, maxMemory int
	shared              int // MiB for the guest itself and the containers without a limit: what is configured
}

// newFrame fills in what the configuration leaves to the host, which has so many processors and so much memory (MiB). The machine
// starts with what covers the floor.
func newFrame(vm config.VM, floor demand, hostCPUs, hostMemory int) frame {
	f := frame{vcpus: vm.VCPUs, memory: vm.MemoryMiB, maxVCPUs: vm.MaxVCPUs, maxMemory: vm.MaxMemoryMiB, shared: vm.MemoryMiB}
	if f.maxVCPUs == 0 {
		f.maxVCPUs = min(max(hostCPUs, minDefaultVCPUs), config.MaxVCPUs)
	}
	if f.maxMemory == 0 {
		f.maxMemory = min(hostMemory, config.MaxMemoryMiB)
	}
	f.maxVCPUs = max(f.maxVCPUs, f.vcpus)
	f.maxMemory = max(f.maxMemory, f.memory)
	f.vcpus = min(max(f.vcpus, wholeCPUs(floor.milliCPUs)), f.maxVCPUs)
	if floor.memory > 0 {
		needed := config.MinMemoryMiB + int(min(mebibytes(floor.memory), config.MaxMemoryMiB))
		f.memory = min(max(f.memory, needed+needed/describedPerByte), f.maxMemory)
	}
	return f
}

// bare is the frame of a clone, which grows to what this one starts with when it has a container: templates are small, and the same for
// machines of many sizes.
func (f frame) bare() frame {
	f.memory = min(f.memory, bareMemoryMiB)
	return f
}

// record is what is remembered of a size.
func (f frame) record(s size) sizeRecord { return sizeRecord{s.vcpus, f.memory + s.addedMemory} }

// wholeCPUs rounds up to processors.
func wholeCPUs(milliCPUs uint64) int { return int((milliCPUs + 999) / 1000) }

// mebibytes rounds up.
func mebibytes(bytes uint64) uint64 { return bytes/mebibyte + min(bytes%mebibyte, 1) }

// hostFrame is newFrame of this host.
func hostFrame(vm config.VM, floor demand) (frame, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return frame{}, fmt.Errorf("how much memory has this host: %w", err)
	}
	return newFrame(vm, floor, runtime.NumCPU(), int(uint64(info.Totalram)*uint64(info.Unit)/mebibyte)), nil
}

// bareFrame is the frame of this host's clones of a configuration.
func bareFrame(vm config.VM) (frame, error) {
	whole, err := hostFrame(vm, demand{})
	return whole.bare(), err
}

// size is how large the machine has to be for its containers; cut tells whether that is less than they ask for.
//
// Processors are what the containers' quotas come to. Memory: the guest itself needs some (config.MinMemoryMiB); containers without a
// limit share what is configured beside that; each limit comes on top.
func (f frame) size(demands iter.Seq[demand]) (s size, cut bool) {
	var milliCPUs, memory uint64
	unlimited := false
	room := (f.maxMemory - f.memory) / hypervisor.MemoryStepMiB
	for d := range demands {
		milliCPUs += d.milliCPUs
		memory += min(d.memory, uint64(config.MaxMemoryMiB)*mebibyte)
		unlimited = unlimited || d.memory == 0
	}
	needed := config.MinMemoryMiB + int(mebibytes(memory))
	if unlimited {
		needed += max(0, f.shared-config.MinMemoryMiB)
	}
	steps := 0
	if more := needed - f.memory; more > 0 {
		more += more / describedPerByte
		steps = (more + hypervisor.MemoryStepMiB - 1) / hypervisor.MemoryStepMiB
	}
	vcpus := max(f.vcpus, wholeCPUs(milliCPUs))
	s = size{vcpus: min(vcpus, f.maxVCPUs), addedMemory: min(steps, room) * hypervisor.MemoryStepMiB}
	return s, vcpus > f.maxVCPUs || steps > room
}
