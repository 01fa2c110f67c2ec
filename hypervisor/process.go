package hypervisor

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Process is one host process of a machine. A pid is only that process while the start time is equal
// (field 22 of /proc/PID/stat, in clock ticks since boot). The process leads a process group of its own: what it forked is
// ended by killing the group.
type Process struct {
	Name      string `json:"name"`
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"`
}

// NewProcess describes the process that has the pid now.
func NewProcess(name string, pid int) (Process, error) {
	_, start, err := readStat(pid)
	if err != nil {
		return Process{}, fmt.Errorf("read the start time of %s: %w", name, err)
	}
	return Process{Name: name, PID: pid, StartTime: start}, nil
}

// Lives tells whether the process is still there. One that has ended, and that nobody has waited for yet, is not.
func (p Process) Lives() bool {
	state, start, err := readStat(p.PID)
	return err == nil && start == p.StartTime && state != "Z"
}

// Group lists the processes of the group that the process leads, itself among them.
func (p Process) Group() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("the processes of %s: %w", p.Name, err)
	}
	var members []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if group, err := unix.Getpgid(pid); err == nil && group == p.PID { // one that has just ended is in none
			members = append(members, pid)
		}
	}
	return members, nil
}

func readStat(pid int) (state string, start uint64, err error) {
	path := fmt.Sprintf("/proc/%d/stat", pid)
	stat, err := os.ReadFile(path)
	if err != nil {
		return "", 0, err
	}
	if state, start, err = parseStat(string(stat)); err != nil {
		return "", 0, fmt.Errorf("%s: %w", path, err)
	}
	return state, start, nil
}

// parseStat takes the fields 3, a letter, and 22 from a /proc/PID/stat. Field 2 is the program's name in parentheses and may contain
// anything.
func parseStat(stat string) (state string, start uint64, err error) {
	const fieldsFromName = 22 - 2
	fields := strings.Fields(stat[strings.LastIndex(stat, ")")+1:])
	if len(fields) < fieldsFromName {
		return "", 0, fmt.Errorf("%d fields after the program's name, not %d", len(fields), fieldsFromName)
	}
	start, err = strconv.ParseUint(fields[fieldsFromName-1], 10, 64)
	return fields[0], start, err
}
