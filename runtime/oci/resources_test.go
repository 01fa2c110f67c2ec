package oci

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func resourcesOf(t *testing.T, text string) *specs.LinuxResources {
	t.Helper()
	var resources *specs.LinuxResources
	if err := json.Unmarshal([]byte(text), &resources); err != nil {
		t.Fatal(err)
	}
	return resources
}

func TestUpdateResources(t *testing.T) {
	const current = `{"devices":[{"allow":false,"access":"rwm"}],"memory":{"limit":1000,"swappiness":10},` +
		`"cpu":{"shares":512,"quota":50000,"period":100000,"cpus":"2-3"},"unified":{"memory.high":"9"}}`
	for _, test := range []struct{ name, update, want string }{
		{"nothing", `{}`, current},
		{"zeroes", `{"memory":{"limit":0},"cpu":{"quota":0,"shares":0,"period":0},"pids":{"limit":0}}`,
			strings.Replace(current, `,"unified"`, `,"pids":{},"unified"`, 1)},
		{"the same", current, current},
		{"memory", `{"memory":{"limit":2000,"reservation":500}}`,
			strings.Replace(current, `"limit":1000`, `"limit":2000,"reservation":500`, 1)},
		{"no limit of memory", `{"memory":{"limit":-1}}`, strings.Replace(current, "1000,", "-1,", 1)},
		{"memory and swap", `{"memory":{"limit":2000,"swap":2000}}`, strings.Replace(current, `"limit":1000`, `"limit":2000,"swap":2000`, 1)},
		{"cpu keeps its period", `{"cpu":{"quota":70000}}`, strings.Replace(current, "50000", "70000", 1)},
		{"idle", `{"cpu":{"idle":0}}`, strings.Replace(current, `"2-3"`, `"2-3","idle":0`, 1)},
		{"pids", `{"pids":{"limit":7}}`, strings.Replace(current, `,"unified"`, `,"pids":{"limit":7},"unified"`, 1)},
		{"unified", `{"unified":{"memory.low":"1"}}`, strings.Replace(current, `"9"`, `"9","memory.low":"1"`, 1)},
		{"empty parts", `{"blockIO":{},"network":{},"memory":{"disableOOMKiller":false}}`, current},
	} {
		before := resourcesOf(t, current)
		got, err := UpdateResources(before, resourcesOf(t, test.update))
		if err != nil || meaning(got) != test.want {
			t.Errorf("%s:\n got %s, %v\nwant %s", test.name, meaning(got), err, test.want)
		}
		if meaning(before) != current {
			t.Errorf("%s: it has changed what there was: %s", test.name, meaning(before))
		}
	}
	if got, err := UpdateResources(nil, resourcesOf(t, `{"pids":{"limit":7}}`)); err != nil || meaning(got) != `{"pids":{"limit":7}}` {
		t.Errorf("of no resources: %s, %v", meaning(got), err)
	}
}

func TestUpdateResourcesRefused(t *testing.T) {
	for _, test := range []struct {
		update, names string
		is            func(error) bool
	}{
		{`{"memory":{"limit":-2}}`, "memory.limit", errdefs.IsInvalidArgument},
		{`{"memory":{"reservation":-5}}`, "memory.reservation", errdefs.IsInvalidArgument},
		{`{"memory":{"swap":-5}}`, "memory.swap", errdefs.IsInvalidArgument},
		{`{"memory":{"limit":2000,"swap":1999}}`, "memory.swap", errdefs.IsInvalidArgument},
		{`{"cpu":{"shares":1}}`, "cpu.shares", errdefs.IsInvalidArgument},
		{`{"cpu":{"shares":262145}}`, "cpu.shares", errdefs.IsInvalidArgument},
		{`{"cpu":{"period":999}}`, "cpu.period", errdefs.IsInvalidArgument},
		{`{"cpu":{"period":1000001}}`, "cpu.period", errdefs.IsInvalidArgument},
		{`{"cpu":{"quota":-2}}`, "cpu.quota", errdefs.IsInvalidArgument},
		{`{"cpu":{"quota":999}}`, "cpu.quota", errdefs.IsInvalidArgument},
		{`{"cpu":{"quota":5000,"burst":5001}}`, "cpu.burst", errdefs.IsInvalidArgument},
		{`{"cpu":{"idle":2}}`, "cpu.idle", errdefs.IsInvalidArgument},
		{`{"pids":{"limit":-2}}`, "pids.limit", errdefs.IsInvalidArgument},
		{`{"unified":{"../memory.max":"1"}}`, "unified", errdefs.IsInvalidArgument},
		{`{"unified":{"nonsense":"1"}}`, "unified", errdefs.IsInvalidArgument},
		{`{"devices":[{"allow":true,"access":"rwm"}]}`, "devices", errdefs.IsNotImplemented},
		{`{"blockIO":{"weight":10}}`, "blockIO", errdefs.IsNotImplemented},
		{`{"hugepageLimits":[{"pageSize":"2MB","limit":0}]}`, "hugepageLimits", errdefs.IsNotImplemented},
		{`{"network":{"classID":1}}`, "network", errdefs.IsNotImplemented},
		{`{"rdma":{"mlx":{"hcaHandles":1}}}`, "rdma", errdefs.IsNotImplemented},
		{`{"cpu":{"cpus":"0"}}`, "cpu.cpus", errdefs.IsNotImplemented},
		{`{"cpu":{"realtimeRuntime":1}}`, "cpu.realtimeRuntime", errdefs.IsNotImplemented},
		{`{"memory":{"swappiness":0}}`, "memory.swappiness", errdefs.IsNotImplemented},
	} {
		got, err := UpdateResources(&specs.LinuxResources{}, resourcesOf(t, test.update))
		if !test.is(err) || !strings.Contains(err.Error(), test.names) {
			t.Errorf("%s: %s, %v", test.update, meaning(got), err)
		}
	}
}
