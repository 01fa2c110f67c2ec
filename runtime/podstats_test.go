package runtime

import (
	"context"
	"fmt"
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/limpet-run/limpet/guest/protocol"
)

func TestSumStats(t *testing.T) {
	now := time.Now()
	if got, want := sumStats(nil, Stats{}, now), (Stats{
		At: now, MemoryLimit: NoLimit, PidsLimit: NoLimit, Memory: Counters{}, MemoryEvents: Counters{}, CPU: Counters{},
	}); !reflect.DeepEqual(got, want) {
		t.Errorf("of nothing: %+v", got)
	}
	one := Stats{
		MemoryUsage: 1, MemoryPeak: 2, MemoryLimit: 3, Pids: 4, PidsLimit: 5, Memory: Counters{"anon": 6}, MemoryEvents: Counters{"oom": 1},
		CPU: Counters{"usage_usec": math.MaxUint64}, IO: []IOStats{{8, 0, Counters{"rbytes": 7}}},
	}
	other := Stats{
		MemoryUsage: 10, MemoryPeak: 20, MemoryLimit: NoLimit, Pids: 40, PidsLimit: 50, Memory: Counters{"anon": 60, "file": 1},
		CPU: Counters{"usage_usec": 1}, IO: []IOStats{{8, 0, Counters{"rbytes": 70}}, {8, 1, Counters{"wbytes": 1}}},
	}
	want := Stats{
		At: now, MemoryUsage: 11, MemoryPeak: 22, MemoryLimit: NoLimit, Pids: 44, PidsLimit: 55, Memory: Counters{"anon": 66, "file": 1},
		MemoryEvents: Counters{"oom": 1}, CPU: Counters{"usage_usec": math.MaxUint64},
		IO: []IOStats{{8, 0, Counters{"rbytes": 77}}, {8, 1, Counters{"wbytes": 1}}},
	}
	if got := sumStats([]Stats{one, other}, Stats{}, now); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if one.IO[0].Counters["rbytes"] != 7 {
		t.Error("a part was changed")
	}
	past := Stats{MemoryUsage: 1000, Pids: 1000, CPU: Counters{"nr_periods": 9}}
	if got := sumStats([]Stats{one}, past, now); got.CPU["nr_periods"] != 9 || got.MemoryUsage != 1 || got.Pids != 4 || got.MemoryLimit != 3 {
		t.Errorf("with those before: %+v", got)
	}
}

// TestPodStatsOnlyGrow deletes a container whose use was told.
func TestPodStatsOnlyGrow(t *testing.T) {
	needRoot(t)
	w, _ := newTestPod(t, podNetwork(t))
	w.fakeGuest.answer = func(_ context.Context, message protocol.HostMessage) (protocol.GuestMessage, error) {
		if _, ok := message.(protocol.Stats); ok {
			return protocol.StatsReport{MemoryCurrent: 5, CPUStat: []protocol.Counter{{Name: "usage_usec", Value: 7}}}, nil
		}
		return nil, nil
	}
	w.bundle = writeBundle(t, joined(fmt.Sprintf("/proc/%d/ns/net", w.Pod().PID())))
	container := w.run(t, IO{})
	check := func(memory uint64) {
		t.Helper()
		stats, err := w.Pod().Stats(t.Context())
		if err != nil || stats.CPU["usage_usec"] != 7 || stats.MemoryUsage != memory {
			t.Errorf("got %+v, %v", stats, err)
		}
	}
	check(5)
	w.exit(container.Init(), 0)
	waitExit(t, container.Init())
	if _, err := container.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	check(0)
}
