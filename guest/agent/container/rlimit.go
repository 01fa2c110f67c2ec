package container

import (
	"fmt"
	"os"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// rlimits are the resource limits by their names in a specification.
var rlimits = map[string]int{
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_DATA": unix.RLIMIT_DATA,
	"RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
	"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE,
	"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_RSS": unix.RLIMIT_RSS, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME": unix.RLIMIT_RTTIME, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING, "RLIMIT_STACK": unix.RLIMIT_STACK,
}

// knownRlimits tells whether all limits are ones that limitProcess can set.
func knownRlimits(limits []specs.POSIXRlimit) bool {
	for _, limit := range limits {
		if _, ok := rlimits[limit.Type]; !ok {
			return false
		}
	}
	return true
}

// hasLimits tells whether the process is to have limits that it cannot inherit from this program.
func hasLimits(process *specs.Process) bool {
	return len(process.Rlimits) > 0 || process.OOMScoreAdj != nil
}

// limitProcess sets the resource limits and the out-of-memory score of a process.
func limitProcess(pid int, process *specs.Process) error {
	for _, limit := range process.Rlimits {
		value := unix.Rlimit{Cur: limit.Soft, Max: limit.Hard}
		if err := unix.Prlimit(pid, rlimits[limit.Type], &value, nil); err != nil {
			return fmt.Errorf("set %s: %w", limit.Type, err)
		}
	}
	if process.OOMScoreAdj == nil {
		return nil
	}
	score := strconv.Itoa(*process.OOMScoreAdj)
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(score), 0); err != nil {
		return fmt.Errorf("set the out-of-memory score: %w", err)
	}
	return nil
}
