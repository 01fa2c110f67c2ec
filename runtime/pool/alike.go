package pool

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// What a process cannot take over from another, and what decides about what it may do and see, has to be the same in both from the start.
var (
	namespaces = []string{"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"}
	// credentials are fields of /proc/PID/status.
	credentials = []string{"Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"}
)

// self is this thread: the first one of a process that has entered another's namespaces may be there for good.
const self = "thread-self"

// alike tells in what a process differs from this one such that this one cannot take its place.
func alike(pid int) error {
	own, err := natureOf(self)
	if err != nil {
		return err
	}
	other, err := natureOf(fmt.Sprint(pid))
	if err != nil {
		return err
	}
	if what := own.differs(other); what != "" {
		return fmt.Errorf("the asker has another %s: %w", what, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// trait is something that a process has, by the name under which it is told.
type trait struct{ name, value string }

// nature is what two processes have in common that are alike.
type nature []trait

// natureOf looks at a process: a pid, or self.
func natureOf(process string) (nature, error) {
	dir := "/proc/" + process
	var traits nature
	for _, name := range namespaces {
		value, err := os.Readlink(dir + "/ns/" + name)
		if err != nil && !os.IsNotExist(err) { // a kernel without that namespace
			return nil, fmt.Errorf("look at process %s: %w", process, err)
		}
		traits = append(traits, trait{name + " namespace", value})
	}
	var root unix.Stat_t
	if err := unix.Stat(dir+"/root", &root); err != nil {
		return nil, fmt.Errorf("look at the root of process %s: %w", process, err)
	}
	traits = append(traits, trait{"root directory", fmt.Sprint(root.Dev, " ", root.Ino)})
	status, err := statusOf(process)
	if err != nil {
		return nil, err
	}
	for _, name := range credentials {
		traits = append(traits, trait{name, status[name]})
	}
	label, _ := os.ReadFile(dir + "/attr/current") // a kernel without security modules has none
	return append(traits, trait{"security label", string(label)}), nil
}

// differs names the first trait that is another one; empty: there is none.
func (n nature) differs(other nature) string {
	for i, trait := range n {
		if !slices.Contains(other, trait) {
			return n[i].name
		}
	}
	return ""
}

// statusOf reads /proc/PID/status.
func statusOf(process string) (map[string]string, error) {
	text, err := os.ReadFile("/proc/" + process + "/status")
	if err != nil {
		return nil, fmt.Errorf("look at process %s: %w", process, err)
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		fields[name] = strings.TrimSpace(value)
	}
	return fields, nil
}
