package integration

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/services/tasks/v1"

	"github.com/limpet-run/limpet/integration/harness"
)

// hierarchyDir is where the hierarchy of that name in /proc/PID/cgroup is mounted, if it is: cgroup v2 has no name.
func hierarchyDir(name string) string {
	if name != "" {
		return filepath.Join("/sys/fs/cgroup", strings.TrimPrefix(name, "name="))
	}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return "/sys/fs/cgroup"
	}
	return "/sys/fs/cgroup/unified"
}

// memberships returns the cgroups of a process by the directories of their hierarchies; hierarchies that are not mounted are left out.
func (s *scope) memberships(process harness.Process) map[string]string {
	s.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", process.PID))
	s.must(err)
	paths := map[string]string{}
	for line := range strings.Lines(string(text)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		dir := hierarchyDir(fields[1])
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
			paths[dir] = fields[2]
		}
	}
	if len(paths) == 0 {
		s.Fatal("this host has no cgroups: mount them at /sys/fs/cgroup")
	}
	return paths
}

// anchor returns the process that stands for the container on the host.
func (c container) anchor() (harness.Process, error) {
	task, err := daemon.Tasks.Get(daemon.Context(c.ctx), &tasks.GetRequest{ContainerID: c.id})
	if err != nil {
		return harness.Process{}, err
	}
	return harness.Process{PID: int(task.Process.Pid)}, nil
}

// TestHostCgroup finds every process of a sandbox but the shim in the cgroup that its container names, in each hierarchy, and no
// cgroup when the sandbox is gone. Where the container names none, all are where the shim is.
func TestHostCgroup(t *testing.T) {
	for name, test := range map[string]struct {
		flags []string
		path  string
	}{
		"ctr's own":      {nil, "/" + daemon.Namespace + "/TestHostCgroup-1"},
		"systemd's form": {[]string{"--cgroup", "-.slice:" + daemon.Namespace + ":unit"}, "/" + daemon.Namespace + "-unit.scope"},
		"none":           {[]string{"--cgroup", ""}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := limpetOnly(t)
			c := s.sleeper(test.flags...)
			server, err := shim()
			s.must(err)
			shims := s.memberships(server)
			for program, find := range map[string]func() (harness.Process, error){
				"QEMU": qemu, "vsock daemon": vsockDaemon, "virtiofsd": fileDaemon, "anchor": c.anchor,
			} {
				process, err := find()
				s.must(err)
				for hierarchy, at := range s.memberships(process) {
					if want := cmp.Or(test.path, shims[hierarchy]); at != want {
						t.Errorf("%s is in %s%s, want %s", program, hierarchy, at, want)
					}
				}
			}
			s.must(daemon.Remove(s.ctx, c.id))
			for hierarchy, at := range shims {
				if at == test.path {
					t.Errorf("the shim was in %s%s", hierarchy, at)
				}
				if _, err := os.Stat(hierarchy + test.path); test.path != "" && err == nil {
					t.Errorf("%s%s is left", hierarchy, test.path)
				}
			}
		})
	}
}

// TestOOMScore compares who is ended first when the host's memory runs out: a shim before the containerd that started it.
func TestOOMScore(t *testing.T) {
	s := limpetOnly(t)
	s.sleeper()
	server, err := shim()
	s.must(err)
	own, parents := s.oomScore(server.PID), s.oomScore(daemon.Pid())
	if own != min(parents+1, 1000) {
		t.Errorf("the shim's oom_score_adj is %d, containerd's %d", own, parents)
	}
}

func (s *scope) oomScore(pid int) (score int) {
	s.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
	s.must(err)
	_, err = fmt.Sscan(string(text), &score)
	s.must(err)
	return score
}
