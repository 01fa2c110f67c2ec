package oci

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestNewPodOfConfig(t *testing.T) {
	host := HostFiles{Hostname: "node", Hosts: "127.0.0.1 localhost\n", Resolv: "nameserver 10.0.0.1\n"}
	number := func(n uint64) *uint64 { return &n }
	signed := func(n int64) *int64 { return &n }
	mapping := []*cri.IDMapping{{ContainerId: 0, HostId: 65536, Length: 1000}}
	mapped := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 65536, Size: 1000}}
	none := specs.LinuxResources{CPU: &specs.LinuxCPU{}, Memory: &specs.LinuxMemory{}}
	open := map[string]string{"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
	hostFiles := map[string]string{
		"/etc/hostname": "node\n", "/etc/hosts": "127.0.0.1 localhost\n", "/etc/resolv.conf": "nameserver 10.0.0.1\n",
	}
	for _, test := range []struct {
		name   string
		config *cri.PodSandboxConfig
		netns  string
		want   Pod
	}{
		{"nothing", nil, "", Pod{
			NewNetNS: true, NetSysctls: open, Sysctls: map[string]string{}, Files: hostFiles, Annotations: map[string]string{"added": "1"},
			Resources: none,
		}},
		{"everything", &cri.PodSandboxConfig{
			Hostname: "web", Annotations: map[string]string{"a": "b"},
			DnsConfig: &cri.DNSConfig{
				Servers: []string{"10.1.0.1", "fd00::1"}, Searches: []string{"a.local", "b.local"}, Options: []string{"ndots:5", "edns0"},
			},
			Linux: &cri.LinuxPodSandboxConfig{
				CgroupParent: "/kubepods/pod1",
				Sysctls:      map[string]string{"net.ipv4.ip_unprivileged_port_start": "100", "kernel.msgmax": "8"},
				SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{
					UsernsOptions: &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: mapping, Gids: mapping},
				}},
				Resources: &cri.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512, MemoryLimitInBytes: 1 << 30},
			},
		}, "/run/netns/n", Pod{
			CgroupsPath: "/kubepods/pod1/id", NetNS: "/run/netns/n", Hostname: "web",
			NetSysctls:  map[string]string{"net.ipv4.ip_unprivileged_port_start": "100", "net.ipv4.ping_group_range": "0 2147483647"},
			Sysctls:     map[string]string{"kernel.msgmax": "8"},
			UIDMappings: mapped, GIDMappings: mapped, Annotations: map[string]string{"a": "b", "added": "1"},
			Resources: specs.LinuxResources{
				CPU:    &specs.LinuxCPU{Period: number(100000), Quota: signed(50000), Shares: number(512)},
				Memory: &specs.LinuxMemory{Limit: signed(1 << 30)},
			},
			Files: map[string]string{
				"/etc/hostname": "web\n", "/etc/hosts": "127.0.0.1 localhost\n",
				"/etc/resolv.conf": "search a.local b.local\nnameserver 10.1.0.1\nnameserver fd00::1\noptions ndots:5 edns0\n",
			},
		}},
		{"the host's network, systemd's cgroup", &cri.PodSandboxConfig{Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent: "/kubepods.slice/kubepods-pod1.slice",
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{
				Network: cri.NamespaceMode_NODE, UsernsOptions: &cri.UserNamespace{Mode: cri.NamespaceMode_NODE},
			}},
		}}, "", Pod{
			CgroupsPath: "kubepods-pod1.slice:cri-containerd:id", NetSysctls: map[string]string{}, Sysctls: map[string]string{},
			Files: hostFiles, Annotations: map[string]string{"added": "1"}, Resources: none,
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := NewPodOfConfig("id", test.config, test.netns, map[string]string{"added": "1"}, host)
			if err != nil || !reflect.DeepEqual(*got, test.want) {
				t.Errorf("got %+v, %v\nwant %+v", got, err, test.want)
			}
		})
	}
}

func TestNewPodOfConfigNamespaces(t *testing.T) {
	for _, test := range []struct {
		options *cri.NamespaceOption
		dropped string
		refused string
	}{
		{&cri.NamespaceOption{Pid: cri.NamespaceMode_NODE}, "PID namespace", ""},
		{&cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER, Ipc: cri.NamespaceMode_POD}, "", ""},
		{&cri.NamespaceOption{Ipc: cri.NamespaceMode_NODE}, "", "ipc namespace"},
		{&cri.NamespaceOption{UsernsOptions: &cri.UserNamespace{Mode: cri.NamespaceMode_CONTAINER}}, "", "mode CONTAINER"},
		{&cri.NamespaceOption{UsernsOptions: &cri.UserNamespace{Mode: cri.NamespaceMode_TARGET}}, "", "mode TARGET"},
	} {
		config := &cri.PodSandboxConfig{Linux: &cri.LinuxPodSandboxConfig{
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: test.options},
		}}
		pod, err := NewPodOfConfig("id", config, "", nil, HostFiles{})
		switch {
		case test.refused != "":
			if !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), test.refused) {
				t.Errorf("%v: %v, want %s", test.options, err, test.refused)
			}
		case err != nil || !strings.Contains(strings.Join(pod.Dropped, ""), test.dropped) || test.dropped == "" && len(pod.Dropped) > 0:
			t.Errorf("%v: %+v, %v", test.options, pod, err)
		}
	}
}

// TestPodFiles: a container has the pod's files where it mounts nothing itself.
func TestPodFiles(t *testing.T) {
	for _, readonly := range []bool{false, true} {
		spec := minimal()
		spec.Root.Readonly = readonly
		spec.Mounts = []specs.Mount{{Destination: "/etc/hosts/", Type: "bind", Source: "/kubelet/hosts"}}
		plan, err := NewPlan(spec, Options{ContainerID: "c1", GuestDir: "/share/c1", PodFiles: map[string]string{
			"/etc/hosts": "/pod/hosts", "/etc/resolv.conf": "/pod/resolv.conf", "/etc/hostname": "/pod/hostname",
		}})
		if err != nil {
			t.Fatal(err)
		}
		want := []Bind{
			{Name: "0", Source: "/kubelet/hosts", Destination: "/etc/hosts/"},
			{Name: "1", Source: "/pod/hostname", Destination: "/etc/hostname", ReadOnly: readonly},
			{Name: "2", Source: "/pod/resolv.conf", Destination: "/etc/resolv.conf", ReadOnly: readonly},
		}
		if !reflect.DeepEqual(plan.Binds, want) {
			t.Errorf("got %+v", plan.Binds)
		}
		if mounts := plan.Spec.Mounts; len(mounts) != 3 || mounts[2].Source != "/share/c1/mounts/2" ||
			slices.Contains(mounts[2].Options, "ro") != readonly {
			t.Errorf("got %+v", mounts)
		}
	}
}

// TestFiles: a container has the host's files in place of those that it mounts itself.
func TestFiles(t *testing.T) {
	own := specs.Mount{Destination: "/etc/resolv.conf/", Type: "bind", Source: "own/resolv.conf", Options: []string{"rbind", "ro"}}
	for name, mounts := range map[string][]specs.Mount{"its own": {own}, "none": nil} {
		spec := minimal()
		spec.Mounts = mounts
		if source, want := BindSource(spec, "/bundle", "/etc/resolv.conf"), "/bundle/own/resolv.conf"; (mounts != nil) != (source == want) {
			t.Errorf("%s: source %q", name, source)
		}
		plan, err := NewPlan(spec, Options{
			ContainerID: "c1", Bundle: "/bundle", GuestDir: "/share/c1", Files: map[string]string{"/etc/resolv.conf": "/host/resolv.conf"},
			PodFiles: map[string]string{"/etc/resolv.conf": "/host/pod"},
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(plan.Binds) != 1 || plan.Binds[0].Source != "/host/resolv.conf" || len(plan.Spec.Mounts) != 1 {
			t.Errorf("%s: got %+v, %+v", name, plan.Binds, plan.Spec.Mounts)
		}
	}
}
