package oci

import (
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/guest/protocol"
)

// owners stands for a sandbox with a pod whose anchor is 7 and a container whose anchor is 77.
func owners(pid int) string { return map[int]string{7: "pod", 77: "container:c0"}[pid] }

// joining makes a configuration have that namespace by its path.
func joining(kind specs.LinuxNamespaceType, path string) func(*specs.Spec) {
	return func(spec *specs.Spec) {
		namespaces := slices.DeleteFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
		spec.Linux.Namespaces = append(namespaces, specs.LinuxNamespace{Type: kind, Path: path})
	}
}

func TestNamespaces(t *testing.T) {
	lone := Options{ContainerID: "c1", Owner: owners}
	inPod := Options{ContainerID: "c1", Owner: owners, Pod: &Pod{NetNS: "/run/netns/p"}}
	for _, test := range []struct {
		name    string
		options Options
		given   []specs.LinuxNamespace
		want    []specs.LinuxNamespace
		netns   string
		dropped string
	}{
		{"new ones", lone,
			[]specs.LinuxNamespace{{Type: "pid"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"}, {Type: "cgroup"}, {Type: "user"}},
			[]specs.LinuxNamespace{{Type: "pid"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"}, {Type: "cgroup"}, {Type: "user"}}, "", ""},
		{"another container's", lone,
			[]specs.LinuxNamespace{{Type: "pid", Path: "/proc/77/ns/pid"}, {Type: "ipc", Path: "/proc/77/ns/ipc"}, {Type: "mount"},
				{Type: "network", Path: "/run/netns/x"}},
			[]specs.LinuxNamespace{{Type: "pid", Path: "container:c0"}, {Type: "ipc", Path: "container:c0"}, {Type: "mount"}},
			"/run/netns/x", ""},
		{"the pod's", inPod,
			[]specs.LinuxNamespace{{Type: "pid"}, {Type: "ipc", Path: "/proc/7/ns/ipc"}, {Type: "uts", Path: "/proc/7/ns/uts"},
				{Type: "mount"}, {Type: "network", Path: "/proc/7/ns/net"}, {Type: "user", Path: "/proc/7/ns/user"}},
			[]specs.LinuxNamespace{{Type: "pid"}, {Type: "ipc", Path: "pod"}, {Type: "uts", Path: "pod"}, {Type: "mount"},
				{Type: "user", Path: "pod"}}, "/proc/7/ns/net", ""},
		{"the pod's network by its path", inPod,
			[]specs.LinuxNamespace{{Type: "pid", Path: "/proc/77/ns/pid"}, {Type: "ipc"}, {Type: "mount"},
				{Type: "network", Path: "/run/netns/p"}},
			[]specs.LinuxNamespace{{Type: "pid", Path: "container:c0"}, {Type: "ipc"}, {Type: "mount"}}, "/run/netns/p", ""},
		{"the host's processes, in a pod", inPod,
			[]specs.LinuxNamespace{{Type: "ipc"}, {Type: "mount"}, {Type: "network", Path: "/proc/77/ns/net"}},
			[]specs.LinuxNamespace{{Type: "ipc"}, {Type: "mount"}, {Type: "pid", Path: "pod"}}, "/proc/77/ns/net", "PID namespace"},
	} {
		t.Run(test.name, func(t *testing.T) {
			spec := minimal()
			spec.Linux.Namespaces = test.given
			plan, err := NewPlan(spec, test.options)
			if err != nil {
				t.Fatal(err)
			}
			if got := plan.Spec.Linux.Namespaces; !slices.Equal(got, test.want) || plan.NetNS != test.netns {
				t.Errorf("got %+v, network %s", got, plan.NetNS)
			}
			if dropped := strings.Join(plan.Dropped, ""); !strings.Contains(dropped, test.dropped) || (dropped == "") != (test.dropped == "") {
				t.Errorf("dropped %q", plan.Dropped)
			}
		})
	}
}

func TestNamespacesOfPodRefused(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*specs.Spec)
		want   string
	}{
		{"new network", joining(specs.NetworkNamespace, ""), "share one network"},
		{"other network", joining(specs.NetworkNamespace, "/run/netns/q"), "/run/netns/q"},
		{"somebody's network", joining(specs.NetworkNamespace, "/proc/1/ns/net"), "/proc/1/ns/net"},
		{"host IPC", func(spec *specs.Spec) { spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: "pid"}, {Type: "mount"}} }, "ipc namespace"},
	} {
		t.Run(test.name, func(t *testing.T) {
			spec := minimal()
			test.change(spec)
			_, err := NewPlan(spec, Options{ContainerID: "c1", Owner: owners, Pod: &Pod{NetNS: "/run/netns/p"}})
			if !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestHostNamespacesOfPod has pods that ask for namespaces of the host.
func TestHostNamespacesOfPod(t *testing.T) {
	ipc, pid := specs.LinuxNamespace{Type: specs.IPCNamespace}, specs.LinuxNamespace{Type: specs.PIDNamespace}
	pod, err := NewPod(&specs.Spec{Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{ipc}}})
	if err != nil || len(pod.Dropped) != 1 || !strings.Contains(pod.Dropped[0], "PID namespace") {
		t.Errorf("the host's processes: %+v, %v", pod, err)
	}
	_, err = NewPod(&specs.Spec{Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{pid}}})
	if !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "ipc namespace") {
		t.Errorf("the host's IPC: %v", err)
	}
	pod, err = NewPod(&specs.Spec{Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{ipc, pid}}})
	if err != nil || len(pod.Dropped) != 0 {
		t.Errorf("its own: %+v, %v", pod, err)
	}
}

func TestPodMessage(t *testing.T) {
	ids := []specs.LinuxIDMapping{{ContainerID: 1, HostID: 2, Size: 3}}
	pod := Pod{Hostname: "barnacle", Sysctls: map[string]string{"kernel.shmmni": "2", "kernel.sem": "1"}, UIDMappings: ids, GIDMappings: ids}
	text, err := protocol.HostMessages.Encode(pod.Message())
	want := `{"type":"pod","hostname":"barnacle","sysctls":[["kernel.sem","1"],["kernel.shmmni","2"]],` +
		`"uid_mappings":[{"container_id":1,"host_id":2,"size":3}],"gid_mappings":[{"container_id":1,"host_id":2,"size":3}]}`
	if err != nil || string(text) != want {
		t.Errorf("%s, %v", text, err)
	}
}
