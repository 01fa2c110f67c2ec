package runtime

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
)

func TestNewStats(t *testing.T) {
	counters := func(count int) (list []protocol.Counter) {
		for i := range count {
			list = append(list, protocol.Counter{Name: fmt.Sprint("c", i)})
		}
		return list
	}
	now := time.Now()
	for name, test := range map[string]struct {
		report protocol.StatsReport
		want   Stats // nothing: it is refused
	}{
		"nothing": {protocol.StatsReport{}, Stats{MemoryLimit: NoLimit, PidsLimit: NoLimit}},
		"all": {
			protocol.StatsReport{
				MemoryCurrent: 1, MemoryPeak: 2, MemoryMax: ptr[uint64](3), PidsCurrent: 4, PidsMax: ptr[uint64](5),
				MemoryStat: []protocol.Counter{{Name: "anon", Value: 6}}, MemoryEvents: []protocol.Counter{{Name: "oom_kill", Value: 7}},
				CPUStat: []protocol.Counter{{Name: "core_sched.force_idle_usec", Value: 8}},
				IOStat:  []protocol.IOStat{{Major: 9, Minor: 10, Counters: []protocol.Counter{{Name: "rbytes", Value: 11}}}},
			},
			Stats{
				MemoryUsage: 1, MemoryPeak: 2, MemoryLimit: 3, Pids: 4, PidsLimit: 5, Memory: Counters{"anon": 6},
				MemoryEvents: Counters{"oom_kill": 7}, CPU: Counters{"core_sched.force_idle_usec": 8},
				IO: []IOStats{{9, 10, Counters{"rbytes": 11}}},
			},
		},
		"many counters":     {protocol.StatsReport{CPUStat: counters(protocol.MaxCounters + 1)}, Stats{}},
		"many devices":      {protocol.StatsReport{IOStat: make([]protocol.IOStat, protocol.MaxIODevices+1)}, Stats{}},
		"a counter twice":   {protocol.StatsReport{MemoryStat: []protocol.Counter{{Name: "a"}, {Name: "a"}}}, Stats{}},
		"a name of nothing": {protocol.StatsReport{MemoryEvents: []protocol.Counter{{}}}, Stats{}},
		"a long name":       {protocol.StatsReport{CPUStat: []protocol.Counter{{Name: strings.Repeat("a", 65)}}}, Stats{}},
		"a wild name":       {protocol.StatsReport{IOStat: []protocol.IOStat{{Counters: []protocol.Counter{{Name: "a\x1b"}}}}}, Stats{}},
	} {
		got, err := newStats(test.report, now)
		if refused := reflect.DeepEqual(test.want, Stats{}); refused != (err != nil) {
			t.Errorf("%s: %v", name, err)
		} else if refused {
			continue
		}
		test.want.At = now
		for _, counters := range []*Counters{&test.want.Memory, &test.want.MemoryEvents, &test.want.CPU} {
			if *counters == nil {
				*counters = Counters{}
			}
		}
		if !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s:\n got %+v\nwant %+v", name, got, test.want)
		}
	}
}

// TestStats asks a guest that answers, that answers nonsense, and that is gone.
func TestStats(t *testing.T) {
	w := newTestSandbox(t)
	c := w.create(t, IO{})
	var answer protocol.GuestMessage = protocol.StatsReport{PidsCurrent: 3}
	w.fakeGuest.answer = func(_ context.Context, message protocol.HostMessage) (protocol.GuestMessage, error) {
		if _, ok := message.(protocol.Stats); ok {
			return answer, nil
		}
		return nil, nil
	}
	if stats, err := c.Stats(t.Context()); err != nil || stats.Pids != 3 {
		t.Errorf("got %+v, %v", stats, err)
	}
	for _, answer = range []protocol.GuestMessage{protocol.OK{}, protocol.StatsReport{CPUStat: []protocol.Counter{{}}}} {
		if stats, err := c.Stats(t.Context()); !errdefs.IsInternal(err) {
			t.Errorf("%+v gives %+v, %v", answer, stats, err)
		}
	}
	w.fakeMachine.end(errors.New("lost"))
	wait(t, w.lost, "the machine ends")
	if stats, err := c.Stats(t.Context()); err != nil || stats.Pids != 3 {
		t.Errorf("after the machine's end: %+v, %v", stats, err)
	}
	if _, err := c.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Stats(t.Context()); !errdefs.IsNotFound(err) {
		t.Errorf("after Delete: %v", err)
	}
}

// FuzzStats gives the host whatever a guest may answer.
func FuzzStats(f *testing.F) {
	f.Add([]byte(`{"type":"stats_report","memory_current":4096,"cpu_usage_nanos":1000,"pids_current":1,"memory_max":8192,` +
		`"memory_stat":[["anon",1],["file",2]],"io_stat":[{"major":8,"minor":0,"counters":[["rbytes",1]]}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		message, err := protocol.GuestMessages.Decode(text)
		if err != nil {
			return
		}
		report, ok := message.(protocol.StatsReport)
		if !ok {
			return
		}
		stats, err := newStats(report, time.Now())
		if err != nil {
			return
		}
		for _, counters := range []Counters{stats.Memory, stats.MemoryEvents, stats.CPU} {
			if len(counters) > protocol.MaxCounters {
				t.Errorf("%d counters", len(counters))
			}
		}
		if len(stats.IO) > protocol.MaxIODevices {
			t.Errorf("%d devices", len(stats.IO))
		}
	})
}
