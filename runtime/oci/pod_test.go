package oci

import (
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestNewPod(t *testing.T) {
	number := func(n uint64) *uint64 { return &n }
	signed := func(n int64) *int64 { return &n }
	mappings := []specs.LinuxIDMapping{{HostID: 65536, Size: 65536}}
	sandbox := map[string]string{annotationContainerType: containerTypeSandbox}
	sized := map[string]string{
		annotationCPUPeriod: "100000", annotationCPUQuota: "150000", annotationCPUShares: "1024", annotationMemory: "536870912",
	}
	unlimited := map[string]string{annotationCPUPeriod: "0", annotationCPUQuota: "-1", annotationCPUShares: "2", annotationMemory: "0"}
	for _, test := range []struct {
		name string
		spec specs.Spec
		want Pod
	}{
		{"pause container", specs.Spec{
			Hostname: "web", Annotations: sandbox,
			Linux: &specs.Linux{
				CgroupsPath: "/kubepods/pod1/pause",
				Namespaces: []specs.LinuxNamespace{
					{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace, Path: "/run/netns/n"},
					{Type: specs.UserNamespace, Path: "/run/user-ns"},
				},
				Sysctl:      map[string]string{"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"},
				UIDMappings: mappings, GIDMappings: mappings,
			},
		}, Pod{
			CgroupsPath: "/kubepods/pod1/pause", NetNS: "/run/netns/n", Hostname: "web", Annotations: sandbox,
			NetSysctls:  map[string]string{"net.ipv4.ip_forward": "1", "net.ipv4.ping_group_range": "0 2147483647"},
			Sysctls:     map[string]string{"kernel.shm_rmid_forced": "1"},
			UIDMappings: mappings, GIDMappings: mappings,
		}},
		{"new network namespace", specs.Spec{Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.NetworkNamespace}}}},
			Pod{NewNetNS: true}},
		{"the host's network", specs.Spec{Linux: &specs.Linux{}}, Pod{}},
		{"sizes", specs.Spec{Linux: &specs.Linux{}, Annotations: sized}, Pod{Annotations: sized, Resources: specs.LinuxResources{
			CPU:    &specs.LinuxCPU{Period: number(100000), Quota: signed(150000), Shares: number(1024)},
			Memory: &specs.LinuxMemory{Limit: signed(536870912)},
		}}},
		{"hooks", specs.Spec{Hooks: &specs.Hooks{}, Linux: &specs.Linux{}},
			Pod{Dropped: []string{"the hooks of the pause container, which has no process"}}},
		{"no limits", specs.Spec{Linux: &specs.Linux{}, Annotations: unlimited}, Pod{Annotations: unlimited, Resources: specs.LinuxResources{
			CPU: &specs.LinuxCPU{Shares: number(2)}, Memory: &specs.LinuxMemory{},
		}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := test.want
			if want.NetSysctls == nil {
				want.NetSysctls, want.Sysctls = map[string]string{}, map[string]string{}
			}
			if want.Resources.CPU == nil {
				want.Resources = specs.LinuxResources{CPU: &specs.LinuxCPU{}, Memory: &specs.LinuxMemory{}}
			}
			own := []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}}
			test.spec.Linux.Namespaces = append(test.spec.Linux.Namespaces, own...)
			got, err := NewPod(&test.spec)
			if err != nil || !reflect.DeepEqual(*got, want) {
				t.Errorf("got %+v, %v\nwant %+v", got, err, want)
			}
		})
	}
	if !IsPod(&specs.Spec{Annotations: sandbox}) || IsPod(&specs.Spec{}) {
		t.Error("a pause container is not told from others")
	}
}

func TestNewPodRefuses(t *testing.T) {
	for _, name := range []string{annotationCPUPeriod, annotationCPUQuota, annotationCPUShares, annotationMemory} {
		_, err := NewPod(&specs.Spec{Linux: &specs.Linux{}, Annotations: map[string]string{name: "much"}})
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), name+`="much"`) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
