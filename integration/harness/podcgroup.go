package harness

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// PodCgroup is the cgroup of a pod, which a kubelet makes before the pod and removes after it.
type PodCgroup struct {
	Path string // in each hierarchy, beginning with "/"
}

// PodCgroup returns the cgroup of the pod with that name. It is below the run's.
func (d *Daemon) PodCgroup(pod string) PodCgroup {
	return PodCgroup{filepath.Join("/", d.Namespace, pod)}
}

// file returns the path of one of the cgroup's files: the name is that of version 2 where the host has that alone, else of version 1,
// in the hierarchy of that controller.
func (c PodCgroup) file(unified, controller, name string) string {
	if isUnified() {
		return filepath.Join(cgroupRoot, c.Path, unified)
	}
	return filepath.Join(cgroupRoot, controller, c.Path, name)
}

// Make makes the cgroup with a limit of memory, in bytes.
func (c PodCgroup) Make(memory int64) error {
	limit := c.file("memory.max", "memory", "memory.limit_in_bytes")
	if err := os.MkdirAll(filepath.Dir(limit), 0o755); err != nil {
		return err
	}
	if isUnified() { // where each parent has to let its children have limits
		for _, parent := range []string{"/", filepath.Dir(c.Path)} {
			control := filepath.Join(cgroupRoot, parent, "cgroup.subtree_control")
			if err := os.WriteFile(control, []byte("+memory +cpu"), 0o644); err != nil {
				return err
			}
		}
	}
	return os.WriteFile(limit, []byte(strconv.FormatInt(memory, 10)), 0o644)
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
	return readNumber(c.file("memory.peak", "memory", "memory.max_usage_in_bytes"), "")
}

// Kills is how many processes the kernel has ended because the cgroup was over its limit of memory.
func (c PodCgroup) Kills() (int64, error) {
	return readNumber(c.file("memory.events", "memory", "memory.oom_control"), "oom_kill")
}

// ProcessorTime is the time that processors have spent on the cgroup.
func (c PodCgroup) ProcessorTime() (time.Duration, error) {
	if isUnified() {
		microseconds, err := readNumber(c.file("cpu.stat", "", ""), "usage_usec")
		return time.Duration(microseconds) * time.Microsecond, err
	}
	nanoseconds, err := readNumber(c.file("", "cpuacct", "cpuacct.usage"), "")
	return time.Duration(nanoseconds), err
}

// readNumber reads the number in a file, or the one after a key.
func readNumber(path, key string) (int64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), key); ok && (key == "" || value[0] == ' ') {
			return strconv.ParseInt(strings.TrimSpace(value), 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, key)
}

// Processes lists the ids of the processes in the cgroup and below, in the hierarchy that accounts for memory.
func (c PodCgroup) Processes() (pids []int, err error) {
	dir := filepath.Dir(c.file("memory.max", "memory", "memory.limit_in_bytes"))
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
