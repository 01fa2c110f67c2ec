package hypervisor

import (
	"fmt"
	"os"
	"strconv"
	"strings"
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
	path := fmt.Sprintf("/proc/%d/stat", pid)
	stat, err := os.ReadFile(path)
	if err != nil {
		return Process{}, fmt.Errorf("read the start time of %s: %w", name, err)
	}
	start, err := parseStartTime(string(stat))
	if err != nil {
		return Process{}, fmt.Errorf("read the start time of %s from %s: %w", name, path, err)
	}
	return Process{Name: name, PID: pid, StartTime: start}, nil
}

// parseStartTime takes field 22 from a /proc/PID/stat. Field 2 is the program's name in parentheses and may contain anything.
func parseStartTime(stat string) (uint64, error) {
	const fieldsFromName = 22 - 2
	fields := strings.Fields(stat[strings.LastIndex(stat, ")")+1:])
	if len(fields) < fieldsFromName {
		return 0, fmt.Errorf("%d fields after the program's name, not %d", len(fields), fieldsFromName)
	}
	return strconv.ParseUint(fields[fieldsFromName-1], 10, 64)
}
