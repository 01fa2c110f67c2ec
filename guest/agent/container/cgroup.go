package container

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroup is a control group (version 2): its directory. Its files are few and plain, so they are read here and not by a library.
type cgroup string

// cgroupName is the name of a container's group below the root. The prefix keeps an id from being one of the root's own files.
func cgroupName(id string) string { return "limpet-" + id }

func (g cgroup) file(name string) string { return filepath.Join(string(g), name) }

// keyed reads the number behind a key in a file of "key number" lines.
func (g cgroup) keyed(name, key string) (uint64, error) {
	content, err := os.ReadFile(g.file(name))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(content)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), " "); ok && k == key {
			return strconv.ParseUint(v, 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no %s", g.file(name), key)
}

// oomKills counts the processes of the group and of those below it that the kernel killed for want of memory. 0 without a memory
// controller.
func (g cgroup) oomKills() uint64 {
	kills, err := g.keyed("memory.events", "oom_kill")
	if err != nil {
		return 0
	}
	return kills
}

// kill kills every process in the group and below it.
func (g cgroup) kill() error {
	err := os.WriteFile(g.file("cgroup.kill"), []byte("1"), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// pids lists the processes in the group and below it.
func (g cgroup) pids() ([]int, error) {
	var pids []int
	err := g.walk(func(dir string) error {
		content, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil && !errors.Is(err, unix.EOPNOTSUPP) { // a threaded group lists its processes in its parent
			return err
		}
		lines := bufio.NewScanner(bytes.NewReader(content))
		for lines.Scan() {
			pid, err := strconv.Atoi(lines.Text())
			if err != nil {
				return err
			}
			pids = append(pids, pid)
		}
		return lines.Err()
	})
	return pids, err
}

// remove removes the group and those below it, which must be empty of processes.
func (g cgroup) remove() error {
	var dirs []string
	if err := g.walk(func(dir string) error { dirs = append(dirs, dir); return nil }); err != nil {
		return err
	}
	for i := len(dirs) - 1; i >= 0; i-- {
		if err := unix.Rmdir(dirs[i]); err != nil && err != unix.ENOENT {
			return fmt.Errorf("remove control group %s: %w", dirs[i], err)
		}
	}
	return nil
}

// walk visits the group and those below it, parents first. Groups that vanish meanwhile are passed over.
func (g cgroup) walk(visit func(dir string) error) error {
	return filepath.WalkDir(string(g), func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			err = visit(path)
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil
		}
		return err
	})
}

// emptyTimeout is how long killed processes may take to leave their group: their memory is given back first, which under emulation
// takes a second per gigabyte.
const emptyTimeout = 10 * time.Second

// removeAll kills what is in the group and below it, waits until it is empty and removes it. A group that does not exist is no error.
func (g cgroup) removeAll() error {
	events, err := watch(g.file("cgroup.events"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer events.close()
	if err := g.kill(); err != nil {
		return fmt.Errorf("kill what is left in %s: %w", g, err)
	}
	timeout := time.AfterFunc(emptyTimeout, events.close)
	defer timeout.Stop()
	return g.removeAfter(events)
}

// removeEmpty waits until nothing runs in the group and below it, however long that takes, and removes it. A group that does not exist is
// no error.
func (g cgroup) removeEmpty() error {
	events, err := watch(g.file("cgroup.events"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer events.close()
	return g.removeAfter(events)
}

// removeAfter removes the group when its events say that it is empty.
func (g cgroup) removeAfter(events *changes) error {
	for {
		populated, err := g.keyed("cgroup.events", "populated")
		if err != nil {
			return err
		}
		if populated == 0 {
			return g.remove()
		}
		if err := events.next(); err != nil {
			return fmt.Errorf("processes in %s do not end: %w", g, err)
		}
	}
}
