package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/runtime/oci"
)

// with gives a configuration a namespace by its path, instead of what it has of that type.
func with(kind specs.LinuxNamespaceType, path string) func(*specs.Spec) {
	return func(spec *specs.Spec) {
		others := slices.DeleteFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
		spec.Linux.Namespaces = append(others, specs.LinuxNamespace{Type: kind, Path: path})
	}
}

// told is what the guest was told of the namespaces of the last container that was run.
func (w *world) told(t *testing.T) []specs.LinuxNamespace {
	t.Helper()
	runs := got[protocol.Run](w.fakeGuest)
	var spec specs.Spec
	if err := json.Unmarshal(runs[len(runs)-1].Spec, &spec); err != nil {
		t.Fatal(err)
	}
	return spec.Linux.Namespaces
}

// TestPodNamespaces makes a pod whose namespaces its containers share, and each other's.
func TestPodNamespaces(t *testing.T) {
	w := newWorld(t)
	options := w.options(t)
	ids := []specs.LinuxIDMapping{{HostID: 65536, Size: 65536}}
	options.Pod = &oci.Pod{
		NewNetNS: true, Hostname: "barnacle", Sysctls: map[string]string{"kernel.shmmax": "1", "kernel.msgmax": "2"},
		UIDMappings: ids, GIDMappings: ids,
	}
	var err error
	if w.Sandbox, err = newSandbox(t.Context(), options, w.platform); err != nil {
		t.Fatal(err)
	}
	mapped := []protocol.IDMapping{{HostID: 65536, Size: 65536}}
	want := []protocol.Pod{{
		Hostname: "barnacle", Sysctls: []protocol.Pair{{Name: "kernel.msgmax", Value: "2"}, {Name: "kernel.shmmax", Value: "1"}},
		UIDMappings: mapped, GIDMappings: mapped,
	}}
	if told := got[protocol.Pod](w.fakeGuest); !reflect.DeepEqual(told, want) {
		t.Errorf("the guest was told %+v", told)
	}
	network := with(specs.NetworkNamespace, fmt.Sprintf("/proc/%d/ns/net", w.Pod().PID()))
	ipc := with(specs.IPCNamespace, fmt.Sprintf("/proc/%d/ns/ipc", w.Pod().PID()))
	w.bundle = writeBundle(t, func(spec *specs.Spec) { network(spec); ipc(spec) })
	target := w.run(t, IO{})
	if told := w.told(t); !slices.Contains(told, specs.LinuxNamespace{Type: specs.IPCNamespace, Path: "pod"}) {
		t.Errorf("the first container's namespaces are %+v", told)
	}
	pid := with(specs.PIDNamespace, fmt.Sprintf("/proc/%d/ns/pid", target.Init().PID()))
	debugger, err := w.CreateContainer(t.Context(), ContainerOptions{
		ID: "debugger", Bundle: writeBundle(t, func(spec *specs.Spec) { network(spec); pid(spec) }),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := debugger.Init().Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if told := w.told(t); !slices.Contains(told, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: "container:" + target.id}) {
		t.Errorf("the second container's namespaces are %+v", told)
	}
	for _, change := range []func(*specs.Spec){with(specs.UTSNamespace, "/proc/1/ns/uts"), with(specs.NetworkNamespace, "")} {
		bundle := writeBundle(t, func(spec *specs.Spec) { network(spec); change(spec) })
		if _, err := w.CreateContainer(t.Context(), ContainerOptions{ID: "c3", Bundle: bundle}); !errdefs.IsNotImplemented(err) {
			t.Errorf("a namespace of others: %v", err)
		}
	}
	if err := w.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestPodNamespacesFail has a guest that cannot make a pod's namespaces: the pod is not made. It was to have the host's name.
func TestPodNamespacesFail(t *testing.T) {
	w := newWorld(t)
	options := w.options(t)
	options.Pod = &oci.Pod{NewNetNS: true}
	w.fakeGuest.answer = func(_ context.Context, message protocol.HostMessage) (protocol.GuestMessage, error) {
		if _, ok := message.(protocol.Pod); ok {
			return nil, errors.New("no such sysctl")
		}
		return nil, nil
	}
	if _, err := newSandbox(t.Context(), options, w.platform); err == nil || !strings.Contains(err.Error(), "no such sysctl") {
		t.Errorf("got %v", err)
	}
	if name, err := os.Hostname(); err != nil || got[protocol.Pod](w.fakeGuest)[0].Hostname != name {
		t.Errorf("the guest was told %+v", got[protocol.Pod](w.fakeGuest))
	}
}
