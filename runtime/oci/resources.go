package oci

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// GuestResources returns the limits that mean the same in the guest's cgroup v2, and names the others. Numbers of the host's processors,
// memory nodes and block devices do not; what only cgroup v1 has is not there. The guest has no swap, so that a limit of memory
// holds one of memory and swap. What is returned shares memory with resources, which may be nil.
func GuestResources(resources *specs.LinuxResources) (guest *specs.LinuxResources, dropped []string) {
	if resources == nil {
		return nil, nil
	}
	guest = &specs.LinuxResources{Devices: resources.Devices, Pids: resources.Pids, Unified: resources.Unified}
	if memory := resources.Memory; memory != nil {
		guest.Memory = &specs.LinuxMemory{Limit: memory.Limit, Reservation: memory.Reservation}
	}
	if cpu := resources.CPU; cpu != nil {
		if cpu.Cpus != "" || cpu.Mems != "" {
			dropped = append(dropped, "cpuset of the host's processors")
		}
		guest.CPU = &specs.LinuxCPU{Shares: cpu.Shares, Quota: cpu.Quota, Burst: cpu.Burst, Period: cpu.Period, Idle: cpu.Idle}
	}
	for _, field := range []struct {
		name string
		set  bool
	}{
		{"limits of block devices", resources.BlockIO != nil},
		{"limits of huge pages", len(resources.HugepageLimits) > 0},
		{"network classes and priorities", resources.Network != nil},
		{"limits of RDMA", len(resources.Rdma) > 0},
	} {
		if field.set {
			dropped = append(dropped, field.name)
		}
	}
	return guest, dropped
}

// UpdateResources returns a container's resources with what an update changes; neither of the two is changed. What the update does not
// name, or names with a zero, stays. A value that no kernel takes is an ErrInvalidArgument, a change of what the guest cannot do an
// ErrNotImplemented: to repeat what the container has is none.
func UpdateResources(current, update *specs.LinuxResources) (*specs.LinuxResources, error) {
	updated := &specs.LinuxResources{}
	if current != nil {
		*updated = *current
	}
	if err := refuseUnsupported(updated, update); err != nil {
		return nil, err
	}
	if update.Memory != nil {
		memory := valueOf(updated.Memory)
		take(&memory.Limit, update.Memory.Limit)
		take(&memory.Reservation, update.Memory.Reservation)
		take(&memory.Swap, update.Memory.Swap)
		updated.Memory = &memory
	}
	if update.CPU != nil {
		cpu := valueOf(updated.CPU)
		take(&cpu.Shares, update.CPU.Shares)
		take(&cpu.Quota, update.CPU.Quota)
		take(&cpu.Period, update.CPU.Period)
		take(&cpu.Burst, update.CPU.Burst)
		if update.CPU.Idle != nil { // whose zero has a meaning
			cpu.Idle = update.CPU.Idle
		}
		updated.CPU = &cpu
	}
	if update.Pids != nil {
		pids := valueOf(updated.Pids)
		take(&pids.Limit, update.Pids.Limit)
		updated.Pids = &pids
	}
	if len(update.Unified) > 0 {
		updated.Unified = maps.Clone(updated.Unified)
		if updated.Unified == nil {
			updated.Unified = map[string]string{}
		}
		maps.Copy(updated.Unified, update.Unified)
	}
	return updated, checkResources(updated)
}

// take replaces a value by a new one, unless that is missing or zero.
func take[T int64 | uint64](value **T, update *T) {
	if update != nil && *update != 0 {
		*value = update
	}
}

// valueOf is what a pointer points to, or nothing.
func valueOf[T any](pointer *T) (value T) {
	if pointer != nil {
		value = *pointer
	}
	return value
}

// refuseUnsupported names what an update changes and the guest cannot do.
func refuseUnsupported(current, update *specs.LinuxResources) error {
	oldMemory, newMemory := valueOf(current.Memory), valueOf(update.Memory)
	oldCPU, newCPU := valueOf(current.CPU), valueOf(update.CPU)
	for _, field := range []struct {
		name     string
		old, new any
	}{
		{"devices", current.Devices, update.Devices},
		{"blockIO", current.BlockIO, update.BlockIO},
		{"hugepageLimits", current.HugepageLimits, update.HugepageLimits},
		{"network", current.Network, update.Network},
		{"rdma", current.Rdma, update.Rdma},
		{"cpu.cpus", oldCPU.Cpus, newCPU.Cpus},
		{"cpu.mems", oldCPU.Mems, newCPU.Mems},
		{"cpu.realtimeRuntime", oldCPU.RealtimeRuntime, newCPU.RealtimeRuntime},
		{"cpu.realtimePeriod", oldCPU.RealtimePeriod, newCPU.RealtimePeriod},
		{"memory.kernelTCP", oldMemory.KernelTCP, newMemory.KernelTCP},
		{"memory.swappiness", oldMemory.Swappiness, newMemory.Swappiness},
		{"memory.disableOOMKiller", oldMemory.DisableOOMKiller, newMemory.DisableOOMKiller},
		{"memory.useHierarchy", oldMemory.UseHierarchy, newMemory.UseHierarchy},
		{"memory.checkBeforeUpdate", oldMemory.CheckBeforeUpdate, newMemory.CheckBeforeUpdate},
	} {
		if asked := meaning(field.new); asked != "" && asked != meaning(field.old) {
			return fmt.Errorf("a container in a VM cannot change %s: %w", field.name, errdefs.ErrNotImplemented)
		}
	}
	return nil
}

// meaning is the JSON of a part of a configuration, empty if it says nothing.
func meaning(part any) string {
	text, err := json.Marshal(part)
	if err != nil {
		panic("oci: " + err.Error()) // nothing of the kind is in a configuration
	}
	switch string(text) {
	case "null", "{}", "[]", `""`, "false":
		return ""
	}
	return string(text)
}

// Bounds of the kernel: of a processor's shares, which become a weight, and of a quota's period, in microseconds.
const (
	minShares = 2
	maxShares = 1 << 18
	minPeriod = 1000
	maxPeriod = 1000000
	// unlimited takes a limit away.
	unlimited = -1
)

// checkResources tells which value the guest's kernel would not take.
func checkResources(r *specs.LinuxResources) error {
	cpu, memory, pids := valueOf(r.CPU), valueOf(r.Memory), valueOf(r.Pids)
	shares, period := valueOf(cpu.Shares), valueOf(cpu.Period)
	quota, idle := valueOf(cpu.Quota), valueOf(cpu.Idle)
	limit, swap := valueOf(memory.Limit), valueOf(memory.Swap)
	for _, wrong := range []struct {
		is    bool
		field string
		value any
		want  string
	}{
		{limit < unlimited, "memory.limit", limit, "bytes, or -1 for no limit"},
		{valueOf(memory.Reservation) < unlimited, "memory.reservation", valueOf(memory.Reservation), "bytes, or -1 for no limit"},
		{swap < unlimited || limit > 0 && swap > 0 && swap < limit, "memory.swap", swap, "at least memory.limit, or -1 for no limit"},
		{shares != 0 && (shares < minShares || shares > maxShares), "cpu.shares", shares, fmt.Sprintf("%d to %d", minShares, maxShares)},
		{period != 0 && (period < minPeriod || period > maxPeriod), "cpu.period", period, fmt.Sprintf("%d to %d", minPeriod, maxPeriod)},
		{quota < unlimited || quota > 0 && quota < minPeriod, "cpu.quota", quota, fmt.Sprintf("at least %d, or -1 for no limit", minPeriod)},
		{quota > 0 && valueOf(cpu.Burst) > uint64(quota), "cpu.burst", valueOf(cpu.Burst), "at most cpu.quota"},
		{idle != 0 && idle != 1, "cpu.idle", idle, "0 or 1"},
		{valueOf(pids.Limit) < unlimited, "pids.limit", valueOf(pids.Limit), "a number, or -1 for no limit"},
	} {
		if wrong.is {
			return fmt.Errorf("%s is %v: must be %s: %w", wrong.field, wrong.value, wrong.want, errdefs.ErrInvalidArgument)
		}
	}
	for name := range r.Unified {
		if strings.Contains(name, "/") || !strings.Contains(name, ".") {
			return fmt.Errorf("unified: %q is no file of a control group: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}
