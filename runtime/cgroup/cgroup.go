package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/hypervisor"
)

const (
	// grace is how long Remove waits for processes of the cgroup to end: those that were killed and are not ours to wait for.
	grace = time.Second
	// again is the time between two looks: nothing tells when a cgroup of v1 is empty.
	again = 5 * time.Millisecond
)

// Host is where a host has its hierarchies.
type Host struct {
	mode    cgroups.CGMode
	unified string // mount point of cgroup v2
}

// ThisHost looks at where this host has its hierarchies.
func ThisHost() Host {
	host := Host{mode: cgroups.Mode(), unified: "/sys/fs/cgroup"}
	if host.mode == cgroups.Hybrid {
		host.unified += "/unified"
	}
	return host
}

func (h Host) hasV1() bool { return h.mode == cgroups.Legacy || h.mode == cgroups.Hybrid }
func (h Host) hasV2() bool { return h.mode == cgroups.Unified || h.mode == cgroups.Hybrid }

// Locate tells in which directories the cgroup at that path is, whether it is there or not. A host without cgroups has none.
func (h Host) Locate(path string) (hypervisor.Cgroup, error) {
	var located hypervisor.Cgroup
	if h.hasV1() {
		var err error
		if located.V1, err = locateV1(func(cgroup1.Name) (string, error) { return path, nil }); err != nil {
			return located, err
		}
	}
	if h.hasV2() {
		located.V2 = filepath.Join(h.unified, path)
	}
	return located, nil
}

// locateV1 tells in which directory of each hierarchy of cgroup v1 a cgroup is whose path in that hierarchy is given.
func locateV1(path cgroup1.Path) ([]hypervisor.CgroupV1, error) {
	hierarchies, err := cgroup1.Default()
	if err != nil {
		return nil, fmt.Errorf("look for the cgroup hierarchies: %w", err)
	}
	own := cgroup1.PidPath(os.Getpid())
	var located []hypervisor.CgroupV1
	for _, hierarchy := range hierarchies {
		home, err := own(hierarchy.Name())
		if errors.Is(err, cgroup1.ErrControllerNotActive) {
			continue // the directory is there, and the hierarchy is not mounted on it
		}
		if err != nil {
			return nil, fmt.Errorf("look for the own cgroup: %w", err)
		}
		there, err := path(hierarchy.Name())
		if err != nil {
			return nil, fmt.Errorf("look for a cgroup: %w", err)
		}
		directories := hierarchy.(interface{ Path(string) string }) // every hierarchy of Default has it
		located = append(located, hypervisor.CgroupV1{Dir: directories.Path(there), Home: directories.Path(home)})
	}
	return located, nil
}

// Of returns the cgroup that a process is in. A host without cgroups has none.
func (h Host) Of(pid int) (hypervisor.Cgroup, error) {
	var located hypervisor.Cgroup
	var err error
	if h.hasV1() {
		if located.V1, err = locateV1(cgroup1.PidPath(pid)); err != nil {
			return located, err
		}
	}
	if h.hasV2() {
		_, path, err := cgroups.ParseCgroupFileUnified(fmt.Sprintf("/proc/%d/cgroup", pid))
		if err != nil {
			return located, fmt.Errorf("look for the cgroup of process %d: %w", pid, err)
		}
		located.V2 = filepath.Join(h.unified, path)
	}
	return located, nil
}

// Move moves processes to a cgroup, in the hierarchies in which they are elsewhere. The kernel waits for every processor with the first of
// the moves, 10 ms, and hardly with those that follow at once.
func (h Host) Move(pids []int, to hypervisor.Cgroup) error {
	for _, pid := range pids {
		here, err := h.Of(pid)
		if err != nil {
			return err
		}
		at := here.Directories()
		for _, dir := range to.Directories() {
			if slices.Contains(at, dir) {
				continue
			}
			if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
				return fmt.Errorf("move process %d to cgroup %s: %w", pid, dir, err)
			}
		}
	}
	return nil
}

// Make makes the cgroup at that path, without limits. One that is there already is taken as it is.
func (h Host) Make(path string, log *slog.Logger) error {
	if h.hasV1() {
		if _, err := cgroup1.New(cgroup1.StaticPath(path), &specs.LinuxResources{}); err != nil {
			return fmt.Errorf("make cgroup %s: %w", path, err)
		}
	}
	if h.hasV2() {
		made, err := cgroup2.NewManager(h.unified, path, &cgroup2.Resources{})
		if err != nil {
			return fmt.Errorf("make cgroup %s: %w", path, err)
		}
		count(made, log)
	}
	return nil
}

// count has cgroup v2 count what the cgroup uses. A controller that cannot be had, because processes live above the cgroup, leaves a
// gap in statistics and nothing else.
func count(made *cgroup2.Manager, log *slog.Logger) {
	controllers, err := made.RootControllers()
	if err != nil {
		log.Warn("the use of the cgroup is not counted", "error", err)
	}
	for _, controller := range controllers {
		if err := made.ToggleControllers([]string{controller}, cgroup2.Enable); err != nil {
			log.Warn("the use of the cgroup is not counted", "controller", controller, "error", err)
		}
	}
}

// Load returns a cgroup that is there already; os.ErrNotExist: it is in none of the hierarchies. Those without it are left out.
func (h Host) Load(path string) (hypervisor.Cgroup, error) {
	located, err := h.Locate(path)
	if err != nil {
		return located, err
	}
	var there hypervisor.Cgroup
	for _, hierarchy := range located.V1 {
		if _, err := os.Stat(hierarchy.Dir); err == nil {
			there.V1 = append(there.V1, hierarchy)
		}
	}
	if _, err := os.Stat(located.V2); err == nil {
		there.V2 = located.V2
	}
	if len(there.Directories()) == 0 {
		return there, fmt.Errorf("cgroup %s: %w", path, fs.ErrNotExist)
	}
	return there, nil
}

// Remove removes a cgroup's directories once no process is in them. What is gone already is no error. A cgroup in which others
// keep processes or cgroups of their own stays: it is theirs too.
func Remove(ctx context.Context, directories []string) error {
	timeout := time.NewTimer(grace)
	defer timeout.Stop()
	for {
		busy := false
		for _, directory := range directories {
			err := unix.Rmdir(directory)
			switch {
			case errors.Is(err, unix.EBUSY):
				busy = true
			case err != nil && !errors.Is(err, unix.ENOENT):
				return fmt.Errorf("remove cgroup %s: %w", directory, err)
			}
		}
		if !busy {
			return nil
		}
		select {
		case <-time.After(again):
		case <-timeout.C:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("remove cgroup %s: processes are in it: %w", directories[0], context.Cause(ctx))
		}
	}
}
