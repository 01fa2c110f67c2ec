package harness

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// PodCgroup is the cgroup of a pod, which a kubelet makes before the pod and removes after it.
type PodCgroup struct {
	Path string // in each hierarchy, beginning with "/"
}

// PodCgroup returns the cgroup of the pod with that name. It is below the run's.
func (d *Daemon) PodCgroup(pod string) PodCgroup {
	return PodCgroup{filepath.Join("/", d.Namespace, pod)}
}

// podPeriod is the period of processor limits in microseconds, the kernel's default.
const podPeriod = 100_000

// Make makes the cgroup with limits of memory in bytes and of processors in thousandths, in version 1 or 2, as the host has them.
func (c PodCgroup) Make(memory int64, milliCPU int64) error {
	quota := milliCPU * podPeriod / 1000
	limits := map[string]string{
		"memory/memory.limit_in_bytes": strconv.FormatInt(memory, 10),
		"cpu/cpu.cfs_quota_us":         strconv.FormatInt(quota, 10),
	}
	if isUnified() {
		limits = map[string]string{"memory.max": strconv.FormatInt(memory, 10), "cpu.max": fmt.Sprintf("%d %d", quota, podPeriod)}
	}
	for name, value := range limits {
		hierarchy, file := filepath.Split(name)
		dir := filepath.Join(cgroupRoot, hierarchy, c.Path)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if isUnified() {
			if err := delegate(filepath.Dir(dir)); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// delegate lets the children of each cgroup from the root to dir have limits of memory and processors.
func delegate(dir string) error {
	if dir != cgroupRoot {
		if err := delegate(filepath.Dir(dir)); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+memory +cpu"), 0o644)
}

// Remove removes the cgroup from every hierarchy. One that has children or processes is an error: those were left.
func (c PodCgroup) Remove() error {
	var errs []error
	for _, dir := range c.dirs() {
		if err := os.Remove(dir); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// MemoryPeak is the most memory that the cgroup has had, in bytes.
func (c PodCgroup) MemoryPeak() (int64, error) {
	name := filepath.Join(cgroupRoot, "memory", c.Path, "memory.max_usage_in_bytes")
	if isUnified() {
		name = filepath.Join(cgroupRoot, c.Path, "memory.peak")
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}

// Processes lists the ids of the processes in the cgroup and below, in the hierarchy that accounts for memory.
func (c PodCgroup) Processes() (pids []int, err error) {
	dir := filepath.Join(cgroupRoot, "memory", c.Path)
	if isUnified() {
		dir = filepath.Join(cgroupRoot, c.Path)
	}
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Name() != "cgroup.procs" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, field := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			pids = append(pids, pid)
		}
		return nil
	})
	return pids, err
}

const cgroupRoot = "/sys/fs/cgroup"

// isUnified reports whether the host has cgroup v2 alone.
func isUnified() bool {
	_, err := os.Stat(filepath.Join(cgroupRoot, "cgroup.controllers"))
	return err == nil
}

// dirs lists the directories of the cgroup that there are.
func (c PodCgroup) dirs() []string {
	var dirs []string
	for _, pattern := range []string{cgroupRoot, cgroupRoot + "/*"} {
		found, err := filepath.Glob(pattern + c.Path)
		if err != nil {
			panic(err) // a pattern of our own
		}
		dirs = append(dirs, found...)
	}
	return dirs
}
