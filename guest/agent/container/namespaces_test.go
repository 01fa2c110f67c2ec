package container

import (
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

// podHost is a host whose set has a pod's namespaces.
func podHost(t *testing.T, m protocol.Pod) *host {
	t.Helper()
	h := newHost(t)
	if err := h.set.MakePod(h.context(), m); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.killHolder() })
	return h
}

func (h *host) killHolder() {
	path, err := h.set.pod.Namespace(specs.PIDNamespace)
	if err != nil {
		return // it has ended
	}
	if err := unix.Kill(pidOf(path), unix.SIGKILL); err != nil {
		h.t.Error(err)
	}
	<-h.set.pod.Done()
}

// pidOf is whose namespace a path in /proc is.
func pidOf(path string) (pid int) {
	for _, digit := range strings.Split(path, "/")[2] {
		pid = 10*pid + int(digit-'0')
	}
	return pid
}

// sharing is a specification whose namespaces of those types have the path.
func (h *host) sharing(path string, kinds []specs.LinuxNamespaceType, args ...string) *specs.Spec {
	spec := h.spec(args...)
	for i := range spec.Linux.Namespaces {
		for _, kind := range kinds {
			if spec.Linux.Namespaces[i].Type == kind {
				spec.Linux.Namespaces[i].Path = path
			}
		}
	}
	return spec
}

var podKinds = []specs.LinuxNamespaceType{specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace}

// namespacesOf is what a shell says of the namespaces that it is in.
const namespacesOf = "for ns in pid ipc uts; do ls -l /proc/self/ns/$ns | sed 's/.*-> //'; done"

func TestPodIsShared(t *testing.T) {
	h := podHost(t, protocol.Pod{Hostname: "barnacle", Sysctls: []protocol.Pair{{Name: "kernel.shmmni", Value: "123"}}})
	h.run("one", h.sharing("pod", podKinds, "sh", "-c", "echo up; exec sleep 1000")).expect("up")
	h.run("two", h.sharing("pod", podKinds, "sh", "-c", "echo up; exec sleep 1000")).expect("up")
	h.run("alone", h.sharing("pod", podKinds[1:], "sh", "-c", "echo up; exec sleep 1000")).expect("up")

	one := h.exec("one", h.spec("sh", "-c", namespacesOf).Process).output("stdout")
	two := h.exec("two", h.spec("sh", "-c", namespacesOf).Process).output("stdout")
	alone := h.exec("alone", h.spec("sh", "-c", namespacesOf).Process).output("stdout")
	if one != two || !strings.Contains(one, "uts:") {
		t.Errorf("one is in\n%stwo in\n%s", one, two)
	}
	ofOne, ofAlone := strings.Fields(one), strings.Fields(alone)
	if ofOne[0] == ofAlone[0] || ofOne[1] != ofAlone[1] || ofOne[2] != ofAlone[2] {
		t.Errorf("one is in\n%salone in\n%s", one, alone)
	}
	look := h.spec("sh", "-c", "cat /proc/sys/kernel/hostname /proc/sys/kernel/shmmni /proc/1/cmdline; ls /proc/1/root/ 2>&1; true").Process
	got := h.exec("two", look).output("stdout")
	if !strings.HasPrefix(got, "barnacle\n123\nlimpet-pod\x00") || !strings.Contains(got, "Permission denied") {
		t.Errorf("%q", got)
	}
}

// TestEndInSharedPID ends a container's first process. Nothing else of its container may live on, nor anything of another container end.
func TestEndInSharedPID(t *testing.T) {
	for name, signal := range map[string]protocol.Signal{
		"first process": {Signal: int32(unix.SIGKILL)},
		"all":           {Signal: int32(unix.SIGKILL), All: true},
		"all, politely": {Signal: int32(unix.SIGTERM), All: true},
	} {
		t.Run(name, func(t *testing.T) {
			h := podHost(t, protocol.Pod{})
			other := h.run("other", h.sharing("pod", podKinds, "sh", "-c", "echo up; exec sleep 1000"))
			other.expect("up")
			k := h.run("c", h.sharing("pod", podKinds, "sh", "-c", "sleep 1000 & (sleep 1000 &); echo up; exec sleep 1000"))
			k.expect("up")
			x := h.exec("c", h.spec("sh", "-c", "(sleep 1000 &); echo up; exec sleep 1000").Process)
			x.expect("up")
			signal.RequestID = k.id
			if err := h.set.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if exit := k.wait(); exit.Code != 128+signal.Signal {
				t.Errorf("exit %+v", exit)
			}
			if exit := x.wait(); exit.Code < 137 && exit.Code != 143 {
				t.Errorf("exit of the exec %+v", exit)
			}
			if notes := h.notes(); notes[len(notes)-1] != "exit 2" {
				t.Errorf("the first process's exit is not the last: %q", notes)
			}
			if err := h.set.Remove(protocol.Remove{ContainerID: "c"}); err != nil {
				t.Error(err)
			}
			if list, err := h.set.Pids(protocol.ListPids{ContainerID: "other"}); err != nil || len(list.Pids) != 1 || !other.process.running() {
				t.Errorf("the other container has %+v, %v", list, err)
			}
			names := strings.Fields(h.exec("other", h.spec("sh", "-c", "exec cat /proc/[0-9]*/comm").Process).output("stdout"))
			if slices.Sort(names); !slices.Equal(names, []string{"cat", "limpet-pod", "sleep"}) {
				t.Errorf("in the pod there are %q", names)
			}
		})
	}
}

// TestNamespaceOfContainer has a container that sees the processes of another one, and ends with it.
func TestNamespaceOfContainer(t *testing.T) {
	h := newHost(t)
	target := h.run("target", h.spec("sh", "-c", "echo up; exec sleep 1234"))
	target.expect("up")
	spec := h.sharing("container:target", podKinds, "sh", "-c", "cat /proc/1/cmdline; echo; echo up; exec sleep 1000")
	debugger := h.run("debugger", spec)
	debugger.expect("sleep\x001234\x00\nup")
	if err := h.set.Signal(protocol.Signal{RequestID: target.id, Signal: 9}); err != nil {
		t.Fatal(err)
	}
	target.wait()
	if exit := debugger.wait(); exit.Code != 137 {
		t.Errorf("exit %+v", exit)
	}
	h.prepare("late")
	if _, err := h.tryRun("late", h.sharing("container:target", podKinds, "true"), nil); !errdefs.IsFailedPrecondition(err) ||
		!strings.Contains(err.Error(), "container target") {
		t.Error(err)
	}
}

// TestNamespaceRefused has words that mean nothing. The container can be run afterwards.
func TestNamespaceRefused(t *testing.T) {
	h := newHost(t)
	h.prepare("c")
	for word, want := range map[string]error{
		"pod": errdefs.ErrFailedPrecondition, "/proc/1/ns/pid": errdefs.ErrInvalidArgument, "Pod": errdefs.ErrInvalidArgument,
		"container:": errdefs.ErrNotFound, "container:x": errdefs.ErrNotFound, "container:c": errdefs.ErrFailedPrecondition,
		"container:../c": errdefs.ErrNotFound,
	} {
		if _, err := h.tryRun("c", h.sharing(word, podKinds[:1], "true"), nil); !isError(err, want) || !strings.Contains(err.Error(), "pid") {
			t.Errorf("%q: %v, want %v", word, err, want)
		}
	}
	k, err := h.tryRun("c", h.spec("sleep", "1000"), nil)
	if err != nil {
		t.Fatal(err)
	}
	h.prepare("d")
	for _, kind := range []specs.LinuxNamespaceType{specs.MountNamespace, specs.NetworkNamespace, specs.CgroupNamespace} {
		spec := h.spec("true")
		spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: kind, Path: "container:c"}}
		if _, err := h.tryRun("d", spec, nil); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), string(kind)) {
			t.Errorf("%s: %v", kind, err)
		}
	}
	if err := h.set.MakePod(h.context(), protocol.Pod{}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a pod after its containers: %v", err)
	}
	_ = h.set.Signal(protocol.Signal{RequestID: k.id, Signal: 9})
}

func isError(err, want error) bool { return err != nil && errdefs.Resolve(err) == want }

func TestPodTwice(t *testing.T) {
	h := podHost(t, protocol.Pod{})
	if err := h.set.MakePod(h.context(), protocol.Pod{}); !errdefs.IsAlreadyExists(err) {
		t.Error(err)
	}
}

func TestPodWithoutItsHolder(t *testing.T) {
	h := podHost(t, protocol.Pod{})
	k := h.run("c", h.sharing("pod", podKinds, "sh", "-c", "echo up; exec sleep 1000"))
	k.expect("up")
	h.killHolder()
	if exit := k.wait(); exit.Code != 137 {
		t.Errorf("exit %+v", exit)
	}
	h.prepare("late")
	_, err := h.tryRun("late", h.sharing("pod", podKinds, "true"), nil)
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "pod's pid namespace") {
		t.Error(err)
	}
}

func TestPodOfUsers(t *testing.T) {
	ids := []protocol.IDMapping{{ContainerID: 0, HostID: 0, Size: 65536}}
	h := podHost(t, protocol.Pod{UIDMappings: ids, GIDMappings: ids})
	spec := h.sharing("pod", podKinds, "sh", "-c", "cat /proc/self/uid_map; cat /proc/1/comm; echo up; exec sleep 1000")
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: "pod"})
	k := h.run("c", spec)
	k.expect("65536\nlimpet-pod\nup")
	if got := h.exec("c", h.spec("cat", "/proc/self/uid_map").Process).output("stdout"); !strings.Contains(got, "65536") {
		t.Errorf("an exec has %q", got)
	}
}
