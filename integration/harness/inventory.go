package harness

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
)

// Inventory is everything on this host that belongs to a run, one line each.
type Inventory map[string]bool

// Inventory lists what the run has on this host now, beside containerd itself: processes, mounts, unix sockets, network namespaces
// and what is in the run's, cgroups, and entries of the directories that limpet, containerd and CNI keep sandboxes in.
func (d *Daemon) Inventory() (Inventory, error) {
	inventory := Inventory{}
	for _, list := range []func() ([]string, error){d.processes, d.mounts, d.unixSockets, d.cgroups, d.entries, d.networkParts} {
		lines, err := list()
		if err != nil {
			return nil, err
		}
		for _, line := range lines {
			inventory[line] = true
		}
	}
	return inventory, nil
}

// Since returns the sorted lines that are in i and not in before.
func (i Inventory) Since(before Inventory) []string {
	var lines []string
	for line := range i {
		if !before[line] {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return lines
}

// leakPoll is how often AwaitNothingSince looks.
const leakPoll = 50 * time.Millisecond

// AwaitNothingSince waits until the run has nothing on this host that it had not in before. A shim cleans up after its last
// answer, and nothing tells when it is done, so this looks again until ctx ends; the error then lists what is left.
func (d *Daemon) AwaitNothingSince(ctx context.Context, before Inventory) error {
	ticker := time.NewTicker(leakPoll)
	defer ticker.Stop()
	for {
		now, err := d.Inventory()
		if err != nil {
			return err
		}
		left := now.Since(before)
		if len(left) == 0 {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("left on the host:\n  %s", strings.Join(left, "\n  "))
		}
	}
}

func (d *Daemon) processes() ([]string, error) {
	processes, err := d.Processes()
	var lines []string
	for _, process := range processes {
		if process.PID != d.Pid() { // another one after each Restart
			lines = append(lines, "process "+process.String())
		}
	}
	return lines, err
}

func (d *Daemon) mounts() ([]string, error) {
	points, err := mountPoints(d.Dir)
	var lines []string
	for _, point := range points {
		lines = append(lines, "mount "+point)
	}
	return lines, err
}

// mountPoints lists the mounts whose mount point or source mentions dir.
func mountPoints(dir string) ([]string, error) {
	infos, err := mountinfo.GetMounts(func(info *mountinfo.Info) (skip, stop bool) {
		return !mentions(info.Mountpoint, dir) && !mentions(info.Root, dir) && !mentions(info.Source, dir), false
	})
	var points []string
	for _, info := range infos {
		points = append(points, info.Mountpoint)
	}
	return points, err
}

func (d *Daemon) unixSockets() ([]string, error) {
	table := Run(d.Command(context.Background(), "cat", "/proc/net/unix")) // a network namespace shows its own
	if table.Err() != nil {
		return nil, table.Err()
	}
	var lines []string
	for line := range strings.Lines(table.Stdout) {
		// Num RefCount Protocol Flags Type St Inode Path; abstract sockets have a path that begins with @.
		fields := strings.Fields(line)
		if len(fields) == 8 && (mentions(fields[7], d.Dir) || mentions(fields[7], d.Namespace)) {
			lines = append(lines, "unix socket "+fields[7])
		}
	}
	return lines, nil
}

// cgroups lists the cgroups below those named as the run's namespace, in which ctr puts containers.
func (d *Daemon) cgroups() ([]string, error) {
	var lines []string
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // removed meanwhile
			return nil
		case err != nil:
			return err
		case !entry.IsDir():
			return nil
		case strings.Contains(path, "/"+d.Namespace+"/"):
			lines = append(lines, "cgroup "+path)
		}
		return nil
	})
	return lines, err
}

// entries lists the entries of directories in which limpet and containerd have one for each sandbox, and of the run's directory
// for temporary files. Other runs have network namespaces, too.
func (d *Daemon) entries() ([]string, error) {
	directories := []string{
		d.StateDir(), d.sockets(), d.temporary(), "/run/netns",
		filepath.Join(d.Dir, "state/io.containerd.runtime.v2.task", d.Namespace),
		filepath.Join(d.Dir, "root/io.containerd.runtime.v2.task", d.Namespace),
		filepath.Join(d.Dir, "state/io.containerd.runtime.v2.task", PodNamespace),
		filepath.Join(d.Dir, "root/io.containerd.runtime.v2.task", PodNamespace),
	}
	for _, directory := range []string{"sandboxes", "containers"} { // of CRI
		directories = append(directories,
			filepath.Join(d.Dir, "state/io.containerd.grpc.v1.cri", directory),
			filepath.Join(d.Dir, "root/io.containerd.grpc.v1.cri", directory))
	}
	var lines []string
	for _, directory := range directories {
		entries, err := os.ReadDir(directory)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, entry := range entries {
			if directory == "/run/netns" && strings.HasPrefix(entry.Name(), runPrefix) {
				continue
			}
			if directory == d.StateDir() && strings.HasPrefix(entry.Name(), ".") { // what all sandboxes have together
				continue
			}
			lines = append(lines, "entry "+filepath.Join(directory, entry.Name()))
		}
	}
	return lines, nil
}

// RemoveCgroups removes the empty cgroups that ctr's containers of the run leave: one named as the namespace in each hierarchy.
func (d *Daemon) RemoveCgroups() error {
	var errs []error
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		paths, err := filepath.Glob(pattern + d.Namespace)
		if err != nil {
			return err
		}
		for _, path := range paths {
			errs = append(errs, os.Remove(path))
		}
	}
	return errors.Join(errs...)
}
