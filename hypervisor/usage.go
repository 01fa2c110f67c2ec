package hypervisor

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

// Usage is what a process costs its host.
type Usage struct {
	Memory uint64        // bytes: its own, and its part of what it shares (PSS)
	CPU    time.Duration // used since it began
}

// clockTick is the unit of times in /proc/PID/stat: USER_HZ, which is 100 on every architecture of today.
const clockTick = 10 * time.Millisecond

// Usage returns what the process costs. One that has ended is an error.
func (p Process) Usage() (Usage, error) {
	rollup, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", p.PID))
	if err != nil {
		return Usage{}, fmt.Errorf("memory of %s: %w", p.Name, err)
	}
	defer rollup.Close()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID))
	if err != nil {
		return Usage{}, fmt.Errorf("processor time of %s: %w", p.Name, err)
	}
	if !p.Lives() {
		return Usage{}, fmt.Errorf("%s (process %d) has ended", p.Name, p.PID)
	}
	memory, memoryErr := parsePSS(rollup)
	cpu, cpuErr := parseCPU(string(stat))
	return Usage{memory, cpu}, errors.Join(memoryErr, cpuErr)
}

// parsePSS takes the PSS from a /proc/PID/smaps_rollup.
func parsePSS(rollup io.Reader) (uint64, error) {
	lines := bufio.NewScanner(rollup)
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), "Pss:"); ok {
			kilobytes, err := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(text, "kB")), 10, 64)
			return kilobytes << 10, err
		}
	}
	return 0, errors.Join(lines.Err(), errors.New("smaps_rollup has no Pss"))
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
