package hypervisor

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// MemoryName is the name of the file that a machine has its memory in, if the memory is its own: a memfd.
const MemoryName = "limpet-memory"

// memoryLink is what /proc says of such a file, but for "(deleted)".
const memoryLink = "/memfd:" + MemoryName

// Usage is what a process costs its host, with those that it has forked into its group. Sizes are in bytes.
type Usage struct {
	Memory uint64        // its own, and its part of what it shares (PSS)
	CPU    time.Duration // used since it began
	// Mapped is what of Memory is the machine's memory, and Taken what there is of that: what was copied there from a saved machine and not
	// used yet is no process's. 0: the process does not have it open.
	Mapped, Taken uint64
}

// clockTick is the unit of times in /proc/PID/stat: USER_HZ, which is 100 on every architecture of today.
const clockTick = 10 * time.Millisecond

// Usage returns what the process costs. One that has ended is an error.
func (p Process) Usage() (Usage, error) {
	usage, err := usageOf(p.PID)
	if err != nil {
		return Usage{}, fmt.Errorf("usage of %s: %w", p.Name, err)
	}
	if !p.Lives() {
		return Usage{}, fmt.Errorf("%s (process %d) has ended", p.Name, p.PID)
	}
	for _, pid := range forked(p.PID, p.PID) {
		if one, err := usageOf(pid); err == nil { // else it has just ended
			usage.Memory += one.Memory
			usage.CPU += one.CPU
			usage.Mapped += one.Mapped
		}
	}
	return usage, nil
}

func usageOf(pid int) (usage Usage, err error) {
	maps, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return Usage{}, err
	}
	defer maps.Close()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Usage{}, err
	}
	var memoryErr, cpuErr, takenErr error
	usage.Memory, usage.Mapped, memoryErr = parsePSS(maps)
	usage.CPU, cpuErr = parseCPU(string(stat))
	usage.Taken, takenErr = takenMemory(pid)
	return usage, errors.Join(memoryErr, cpuErr, takenErr)
}

// forked lists what a process has forked, and that, as far as it is in the group. Those that end meanwhile are left out.
func forked(pid, group int) (pids []int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		text, _ := os.ReadFile(list)
		for _, field := range strings.Fields(string(text)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				continue
			}
			if in, err := unix.Getpgid(child); err == nil && in == group {
				pids = append(append(pids, child), forked(child, group)...)
			}
		}
	}
	return pids
}

// takenMemory is how much there is of the machine's memory that a process has open.
func takenMemory(pid int) (uint64, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		if target, err := os.Readlink(path); err != nil || !strings.HasPrefix(target, memoryLink) {
			continue
		}
		var info unix.Stat_t
		if err := unix.Stat(path, &info); err != nil {
			return 0, err
		}
		return uint64(info.Blocks) * 512, nil
	}
	return 0, nil
}

// parsePSS sums up the PSS in a /proc/PID/smaps, and what of it is a machine's memory.
func parsePSS(smaps io.Reader) (total, memory uint64, err error) {
	found, inMemory := false, false
	for lines := bufio.NewScanner(smaps); lines.Scan(); {
		name, value, isValue := strings.Cut(lines.Text(), ": ")
		switch {
		case !isValue: // "first-last permissions offset device inode path"
			inMemory = strings.Contains(lines.Text(), " "+memoryLink)
		case name == "Pss":
			kibibytes, err := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(value, "kB")), 10, 54)
			if err != nil {
				return 0, 0, err
			}
			found = true
			total += kibibytes << 10
			if inMemory {
				memory += kibibytes << 10
			}
		}
	}
	if !found {
		return 0, 0, errors.New("smaps has no Pss")
	}
	return total, memory, nil
}

// parseCPU takes the fields 14 and 15 from a /proc/PID/stat: time in user mode, and in the kernel.
func parseCPU(stat string) (time.Duration, error) {
	const user, system = 14 - 3, 15 - 3 // counted from the state, field 3
	fields := strings.Fields(stat[strings.LastIndex(stat, ")")+1:])
	if len(fields) <= system {
		return 0, fmt.Errorf("%d fields after the program's name", len(fields))
	}
	inUser, err := strconv.ParseUint(fields[user], 10, 63)
	inKernel, kernelErr := strconv.ParseUint(fields[system], 10, 63)
	return time.Duration(inUser+inKernel) * clockTick, errors.Join(err, kernelErr)
}
