package runtime

import (
	"context"
	"fmt"
	"maps"
	"math"
	"time"

	"github.com/containerd/errdefs"
)

// Stats is what the pod's containers have used together. What only grows does not shrink when one is deleted.
func (p *Pod) Stats(ctx context.Context) (Stats, error) {
	p.mu.Lock()
	past := Stats{}
	past.addPast(p.past)
	p.mu.Unlock()
	var parts []Stats
	for _, container := range p.sandbox.list() {
		stats, err := container.Stats(ctx)
		switch {
		case err == nil:
			parts = append(parts, stats)
		case !errdefs.IsNotFound(err) && !p.sandbox.isLost():
			return Stats{}, fmt.Errorf("stats of pod %s: %w", p.sandbox.id, err)
		}
	}
	return sumStats(parts, past, time.Now()), nil
}

// remember keeps what a container that is deleted was last known to have used.
func (p *Pod) remember(last Stats) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.past.addPast(last)
}

// sumStats adds up what containers have used, and of what only grows what others have before. A limit is that of all together, if each has
// one. The peak of memory is the sum of each one's.
func sumStats(parts []Stats, past Stats, now time.Time) Stats {
	total := Stats{At: now, Memory: Counters{}, MemoryLimit: NoLimit, PidsLimit: NoLimit}
	total.addPast(past)
	for i, part := range parts {
		if i == 0 {
			total.MemoryLimit, total.PidsLimit = 0, 0
		}
		total.MemoryUsage = SumCounters(total.MemoryUsage, part.MemoryUsage)
		total.MemoryPeak = SumCounters(total.MemoryPeak, part.MemoryPeak)
		total.MemoryLimit = SumCounters(total.MemoryLimit, part.MemoryLimit)
		total.Pids = SumCounters(total.Pids, part.Pids)
		total.PidsLimit = SumCounters(total.PidsLimit, part.PidsLimit)
		total.Memory.add(part.Memory)
		total.addPast(part)
	}
	return total
}

// addPast adds what only grows.
func (s *Stats) addPast(part Stats) {
	if s.CPU == nil {
		s.CPU, s.MemoryEvents = Counters{}, Counters{}
	}
	s.MemoryEvents.add(part.MemoryEvents)
	s.CPU.add(part.CPU)
	for _, device := range part.IO {
		s.addIO(device)
	}
}

func (s *Stats) addIO(device IOStats) {
	for _, known := range s.IO {
		if known.Major == device.Major && known.Minor == device.Minor {
			known.Counters.add(device.Counters)
			return
		}
	}
	s.IO = append(s.IO, IOStats{device.Major, device.Minor, maps.Clone(device.Counters)})
}

func (c Counters) add(others Counters) {
	for name, value := range others {
		c[name] = SumCounters(c[name], value)
	}
}

// SumCounters adds, up to the largest number there is: the guest's numbers may be anything.
func SumCounters(a, b uint64) uint64 {
	if a > math.MaxUint64-b {
		return math.MaxUint64
	}
	return a + b
}
