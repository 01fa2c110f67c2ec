package runtime

import (
	"context"
	"errors"
	"fmt"
	"math"
	"regexp"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/internal/printable"
)

// NoLimit is a limit that there is not.
const NoLimit = math.MaxUint64

// Stats is what a container used up to a moment. It is the guest's word: bounded, and otherwise not to be relied on. Sizes are in bytes.
type Stats struct {
	At           time.Time
	MemoryUsage  uint64
	MemoryPeak   uint64
	MemoryLimit  uint64
	Memory       Counters // memory.stat of its control group (version 2)
	MemoryEvents Counters // memory.events
	CPU          Counters // cpu.stat
	Pids         uint64
	PidsLimit    uint64
	IO           []IOStats // io.stat
}

// Counters are numbers by the names that the kernel gives them (Documentation/admin-guide/cgroup-v2.rst). One that is not there is 0.
type Counters map[string]uint64

// IOStats is what a container did with one of the guest's block devices.
type IOStats struct {
	Major, Minor uint64
	Counters     Counters
}

// Stats tells what the container has used. Once its machine has ended that is what was told last; after Delete it is an ErrNotFound.
func (c *Container) Stats(ctx context.Context) (Stats, error) {
	if !c.made() {
		return Stats{}, fmt.Errorf("stats of container %s: %w", c.id, errdefs.ErrNotFound)
	}
	stats, err := c.askStats(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.lastStats = &stats
		return stats, nil
	}
	if c.lastStats != nil && c.sandbox.isLost() {
		return *c.lastStats, nil
	}
	return Stats{}, fmt.Errorf("stats of container %s: %w", c.id, err)
}

func (c *Container) askStats(ctx context.Context) (Stats, error) {
	answer, err := c.sandbox.call(ctx, callTimeout, protocol.Stats{ContainerID: c.id})
	if err != nil {
		return Stats{}, err
	}
	report, ok := answer.(protocol.StatsReport)
	if !ok {
		return Stats{}, fmt.Errorf("the guest answers with a %T: %w", answer, errdefs.ErrInternal)
	}
	stats, err := newStats(report, time.Now())
	if err != nil {
		return Stats{}, fmt.Errorf("the guest's report: %w: %w", err, errdefs.ErrInternal)
	}
	return stats, nil
}

// newStats checks what the guest reports.
func newStats(report protocol.StatsReport, now time.Time) (Stats, error) {
	stats := Stats{
		At: now, MemoryUsage: report.MemoryCurrent, MemoryPeak: report.MemoryPeak, MemoryLimit: NoLimit,
		Pids: report.PidsCurrent, PidsLimit: NoLimit,
	}
	if report.MemoryMax != nil {
		stats.MemoryLimit = *report.MemoryMax
	}
	if report.PidsMax != nil {
		stats.PidsLimit = *report.PidsMax
	}
	var errs [3]error
	stats.Memory, errs[0] = newCounters(report.MemoryStat)
	stats.MemoryEvents, errs[1] = newCounters(report.MemoryEvents)
	stats.CPU, errs[2] = newCounters(report.CPUStat)
	if err := errors.Join(errs[:]...); err != nil {
		return Stats{}, err
	}
	if len(report.IOStat) > protocol.MaxIODevices {
		return Stats{}, fmt.Errorf("%d block devices, want at most %d", len(report.IOStat), protocol.MaxIODevices)
	}
	for _, device := range report.IOStat {
		counters, err := newCounters(device.Counters)
		if err != nil {
			return Stats{}, err
		}
		stats.IO = append(stats.IO, IOStats{device.Major, device.Minor, counters})
	}
	return stats, nil
}

// counterName is narrower than what the kernel could choose, and wider than what it does.
var counterName = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[a-z0-9_.]{1,64}$`)
})

func newCounters(list []protocol.Counter) (Counters, error) {
	if len(list) > protocol.MaxCounters {
		return nil, fmt.Errorf("%d counters, want at most %d", len(list), protocol.MaxCounters)
	}
	counters := make(Counters, len(list))
	for _, counter := range list {
		if !counterName().MatchString(counter.Name) {
			return nil, fmt.Errorf("a counter has the name %q", printable.Short(counter.Name, maxReason))
		}
		if _, twice := counters[counter.Name]; twice {
			return nil, fmt.Errorf("the counter %s is there twice", counter.Name)
		}
		counters[counter.Name] = counter.Value
	}
	return counters, nil
}
