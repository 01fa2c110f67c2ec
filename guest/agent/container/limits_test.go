package container

import (
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func of[T any](value T) *T { return &value }

func TestSettings(t *testing.T) {
	for name, c := range map[string]struct {
		resources *specs.LinuxResources
		want      []setting
	}{
		"nothing": {nil, nil},
		"zeros": {&specs.LinuxResources{
			Memory: &specs.LinuxMemory{}, Pids: &specs.LinuxPids{Limit: of(int64(0))},
			CPU: &specs.LinuxCPU{Shares: of(uint64(0)), Quota: of(int64(0))},
		}, nil},
		"all": {&specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: of(int64(1000)), Reservation: of(int64(500))}, Pids: &specs.LinuxPids{Limit: of(int64(7))},
			CPU: &specs.LinuxCPU{
				Shares: of(uint64(1024)), Quota: of(int64(5000)), Period: of(uint64(10000)), Burst: of(uint64(9)), Idle: of(int64(0)),
			},
			Unified: map[string]string{"memory.high": "5\n", "io.max": "8:0 rbps=1\n8:1 rbps=2"},
		}, []setting{
			{"memory.max", "1000"}, {"memory.low", "500"}, {"pids.max", "7"}, {"cpu.weight", "39"}, {"cpu.idle", "0"}, {"cpu.max", "5000 10000"},
			{"cpu.max.burst", "9"}, {"io.max", "8:0 rbps=1"}, {"io.max", "8:1 rbps=2"}, {"memory.high", "5"},
		}},
		"no limits": {&specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: of(int64(-1))}, Pids: &specs.LinuxPids{Limit: of(int64(-1))},
			CPU: &specs.LinuxCPU{Quota: of(int64(-1))},
		}, []setting{{"memory.max", "max"}, {"pids.max", "max"}, {"cpu.max", "max 100000"}}},
		"a quota alone":  {&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: of(int64(5000))}}, []setting{{"cpu.max", "5000 100000"}}},
		"a period alone": {&specs.LinuxResources{CPU: &specs.LinuxCPU{Period: of(uint64(5000))}}, []setting{{"cpu.max", "max 5000"}}},
	} {
		if got, err := settingsOf(c.resources); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, %v, want %v", name, got, err, c.want)
		}
	}
	for name, c := range map[string]struct {
		resources *specs.LinuxResources
		is        func(error) bool
	}{
		"swap":       {&specs.LinuxResources{Memory: &specs.LinuxMemory{Swap: of(int64(1))}}, errdefs.IsNotImplemented},
		"huge pages": {&specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{}}}, errdefs.IsNotImplemented},
		"processors": {&specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0"}}, errdefs.IsNotImplemented},
		"a path":     {&specs.LinuxResources{Unified: map[string]string{"../memory.max": "1"}}, errdefs.IsInvalidArgument},
	} {
		if _, err := settingsOf(c.resources); !c.is(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for shares, want := range map[uint64]uint64{0: 1, 2: 1, 1 << 18: 10000, 1 << 30: 10000} {
		if got := weight(shares); got != want {
			t.Errorf("weight of %d shares: %d, want %d", shares, got, want)
		}
	}
}
