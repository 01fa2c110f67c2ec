package container

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// setting is what a file of a control group says, or is to say.
type setting struct {
	name    string
	content string
}

const (
	// noLimit is what a limit's file says without one.
	noLimit = "max"
	// usualPeriod is the kernel's period of a processor's quota, in microseconds.
	usualPeriod = 100000
)

// settingsOf are the settings of a control group (version 2) that resources ask for, in the order in which they are made. What needs
// something that this machine does not have is an ErrNotImplemented.
func settingsOf(resources *specs.LinuxResources) ([]setting, error) {
	if resources == nil {
		return nil, nil
	}
	if len(resources.HugepageLimits)+len(resources.Rdma) > 0 || resources.BlockIO != nil || resources.Network != nil {
		return nil, fmt.Errorf("limits of huge pages, RDMA, block devices and network: %w", errdefs.ErrNotImplemented)
	}
	var settings []setting
	set := func(name, content string) { settings = append(settings, setting{name, content}) }
	if m := resources.Memory; m != nil {
		if *m != (specs.LinuxMemory{Limit: m.Limit, Reservation: m.Reservation}) {
			return nil, fmt.Errorf("limits of memory but limit and reservation: %w", errdefs.ErrNotImplemented)
		}
		if m.Limit != nil {
			set("memory.max", limit(*m.Limit))
		}
		if m.Reservation != nil {
			set("memory.low", limit(*m.Reservation))
		}
	}
	if resources.Pids != nil && resources.Pids.Limit != nil && *resources.Pids.Limit != 0 {
		set("pids.max", limit(*resources.Pids.Limit))
	}
	if resources.CPU != nil {
		more, err := processorSettings(resources.CPU)
		if err != nil {
			return nil, err
		}
		settings = append(settings, more...)
	}
	for _, name := range slices.Sorted(maps.Keys(resources.Unified)) {
		if strings.Contains(name, "/") {
			return nil, fmt.Errorf("%q is no file of a control group: %w", name, errdefs.ErrInvalidArgument)
		}
		for line := range strings.Lines(resources.Unified[name]) { // the kernel takes one at a time
			set(name, strings.TrimSuffix(line, "\n"))
		}
	}
	return settings, nil
}

func limit(value int64) string {
	if value < 0 {
		return noLimit
	}
	return strconv.FormatInt(value, 10)
}

func processorSettings(cpu *specs.LinuxCPU) (settings []setting, err error) {
	if valueOf(cpu.RealtimePeriod) != 0 || valueOf(cpu.RealtimeRuntime) != 0 || cpu.Cpus != "" || cpu.Mems != "" {
		return nil, fmt.Errorf("limits of real time and sets of processors: %w", errdefs.ErrNotImplemented)
	}
	set := func(name string, content any) { settings = append(settings, setting{name, fmt.Sprint(content)}) }
	if shares := valueOf(cpu.Shares); shares != 0 {
		set("cpu.weight", weight(shares))
	}
	if cpu.Idle != nil {
		set("cpu.idle", *cpu.Idle)
	}
	if quota, period := valueOf(cpu.Quota), valueOf(cpu.Period); quota != 0 || period != 0 {
		set("cpu.max", limit(cmp.Or(quota, -1))+" "+strconv.FormatUint(cmp.Or(period, usualPeriod), 10))
	}
	if cpu.Burst != nil {
		set("cpu.max.burst", *cpu.Burst)
	}
	return settings, nil
}

// weight turns a processor's shares (2 to 262144) into a weight (1 to 10000), linearly, as crun and runc do.
func weight(shares uint64) uint64 {
	const minShares, maxShares, maxWeight = 2, 1 << 18, 10000
	shares = min(max(shares, minShares), maxShares)
	return 1 + (shares-minShares)*(maxWeight-1)/(maxShares-minShares)
}

func valueOf[T any](pointer *T) (value T) {
	if pointer != nil {
		value = *pointer
	}
	return value
}

// apply makes settings.
func (g cgroup) apply(settings []setting) error {
	for _, s := range settings {
		if err := os.WriteFile(g.file(s.name), []byte(s.content), 0); err != nil {
			return fmt.Errorf("set %s to %q: %w", s.name, s.content, errors.Unwrap(err))
		}
	}
	return nil
}

// make makes the group with its limits and rules for devices. The group is there in any case, to be removed.
func (g cgroup) make(resources *specs.LinuxResources) error {
	settings, err := settingsOf(resources)
	if err != nil {
		return err
	}
	if err := os.Mkdir(string(g), 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	if err := g.apply(settings); err != nil {
		return err
	}
	if resources == nil || len(resources.Devices) == 0 {
		return nil
	}
	filter, err := deviceFilter(resources.Devices)
	if err != nil {
		return err
	}
	return g.filterDevices(filter)
}
