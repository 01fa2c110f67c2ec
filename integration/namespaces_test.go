package integration

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/services/tasks/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// namespaceFiles are the names that the namespaces which containers share have in a process's directory ns of /proc.
var namespaceFiles = map[specs.LinuxNamespaceType]string{specs.PIDNamespace: "pid", specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts"}

// sharing makes a configuration have a process's namespaces of these types.
func sharing(pid int, kinds ...specs.LinuxNamespaceType) func(*specs.Spec) {
	return func(spec *specs.Spec) {
		for i := range spec.Linux.Namespaces {
			if namespace := &spec.Linux.Namespaces[i]; slices.Contains(kinds, namespace.Type) {
				namespace.Path = fmt.Sprintf("/proc/%d/ns/%s", pid, namespaceFiles[namespace.Type])
			}
		}
	}
}

// sharer starts a shell in the sandbox of a container that shares these of its namespaces.
func (c container) sharer(flags []string, script string, kinds ...specs.LinuxNamespaceType) container {
	c.Helper()
	anchor, err := c.anchor()
	c.must(err)
	other := c.scripted(flags, sharing(anchor.PID, kinds...), script)
	other.createTask(&tasks.CreateTaskRequest{})
	other.startTask("")
	return other
}

// TestSharedNamespaces has containers that share namespaces by the paths that their tasks' pids make, as ephemeral containers do.
func TestSharedNamespaces(t *testing.T) {
	s := limpetOnly(t)
	target := s.create(nil, "sleep", "1000000")
	target.changeSpec(func(spec *specs.Spec) { spec.Hostname = "barnacle" })
	target.createTask(&tasks.CreateTaskRequest{})
	target.startTask("")
	pod := target.pod()
	// seen counts the processes that sleep, but not those that have ended and that nobody has waited for, which have no command line.
	seen := func(c container) int {
		t.Helper()
		result := c.exec(nil, "sh", "-c", "exec grep -l 's[l]eep' /proc/[0-9]*/cmdline")
		s.must(result.Err())
		return len(strings.Fields(result.Stdout))
	}

	const three = "sleep 1000001 & (sleep 1000002 &); exec sleep 1000003"
	all := target.sharer(pod, three, specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace)
	if got := all.exec(nil, "sh", "-c", "hostname; tr '\\0' ' ' </proc/1/cmdline"); got.Stdout != "barnacle\nsleep 1000000 " {
		t.Errorf("beside the other container there is %q: %v", got.Stdout, got.Err())
	}
	apart := target.sharer(pod, "exec sleep 1000000", specs.UTSNamespace)
	if got := apart.exec(nil, "sh", "-c", "hostname; tr '\\0' ' ' </proc/1/cmdline"); got.Stdout != "barnacle\nsleep 1000000 " {
		t.Errorf("apart from the other container there is %q: %v", got.Stdout, got.Err())
	}
	if got := seen(target); got != 4 {
		t.Errorf("the other container sees %d processes", got)
	}
	if got := seen(apart); got != 1 {
		t.Errorf("the container with its own processes sees %d", got)
	}

	// The first process is not the namespace's first, but its container ends with it.
	all.kill(unix.SIGKILL)
	if code := all.wait(""); code != 137 {
		t.Errorf("exit code %d", code)
	}
	all.deleteTask()
	if got := seen(target); got != 1 {
		t.Errorf("the other container still sees %d processes", got)
	}

	last := target.sharer(pod, "exec sleep 1000000", specs.PIDNamespace)
	target.kill(unix.SIGKILL)
	for _, c := range []container{last, target} {
		if code := c.wait(""); code != 137 {
			t.Errorf("exit code %d of %s", code, c.id)
		}
	}
}
