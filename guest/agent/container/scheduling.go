package container

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/agent/fork"
)

// scheduling is how a process is scheduled, as the kernel takes it. What is empty is as for any process.
type scheduling struct {
	attributes []byte  // struct sched_attr: sched_setattr(2)
	ioPriority uintptr // ioprio_set(2)
	processors []byte  // a bit for each: sched_setaffinity(2)
}

// policies, schedulerFlags and ioClasses are the names of a specification.
var (
	policies = map[specs.LinuxSchedulerPolicy]uint32{
		specs.SchedOther: unix.SCHED_NORMAL, specs.SchedFIFO: unix.SCHED_FIFO, specs.SchedRR: unix.SCHED_RR, specs.SchedBatch: unix.SCHED_BATCH,
		specs.SchedIdle: unix.SCHED_IDLE, specs.SchedDeadline: unix.SCHED_DEADLINE,
	}
	schedulerFlags = map[specs.LinuxSchedulerFlag]uint64{
		specs.SchedFlagResetOnFork: unix.SCHED_FLAG_RESET_ON_FORK, specs.SchedFlagReclaim: unix.SCHED_FLAG_RECLAIM,
		specs.SchedFlagDLOverrun: unix.SCHED_FLAG_DL_OVERRUN, specs.SchedFlagKeepPolicy: unix.SCHED_FLAG_KEEP_POLICY,
		specs.SchedFlagKeepParams:   unix.SCHED_FLAG_KEEP_PARAMS,
		specs.SchedFlagUtilClampMin: unix.SCHED_FLAG_UTIL_CLAMP_MIN, specs.SchedFlagUtilClampMax: unix.SCHED_FLAG_UTIL_CLAMP_MAX,
	}
	ioClasses = map[specs.IOPriorityClass]uintptr{specs.IOPRIO_CLASS_RT: 1, specs.IOPRIO_CLASS_BE: 2, specs.IOPRIO_CLASS_IDLE: 3}
)

// maxProcessors is more than a guest's kernel has (CONFIG_NR_CPUS).
const maxProcessors = 1024

// schedulingOf reads what a process's specification says: ErrInvalidArgument.
func schedulingOf(process *specs.Process) (*scheduling, error) {
	var s scheduling
	if given := process.Scheduler; given != nil {
		policy, known := policies[given.Policy]
		var flags uint64
		for _, name := range given.Flags {
			flag, knownFlag := schedulerFlags[name]
			known = known && knownFlag
			flags |= flag
		}
		if !known {
			return nil, fmt.Errorf("scheduler %q with %q: %w", given.Policy, given.Flags, errdefs.ErrInvalidArgument)
		}
		const size = 48 // of the struct's first version
		for _, half := range []uint32{size, policy, uint32(flags), uint32(flags >> 32), uint32(given.Nice), uint32(given.Priority)} {
			s.attributes = binary.LittleEndian.AppendUint32(s.attributes, half)
		}
		for _, time := range []uint64{given.Runtime, given.Deadline, given.Period} {
			s.attributes = binary.LittleEndian.AppendUint64(s.attributes, time)
		}
	}
	if given := process.IOPriority; given != nil {
		const classShift, priorities = 13, 8
		class, known := ioClasses[given.Class]
		if !known || given.Priority < 0 || given.Priority >= priorities {
			return nil, fmt.Errorf("input and output of class %q, priority %d: %w", given.Class, given.Priority, errdefs.ErrInvalidArgument)
		}
		s.ioPriority = class<<classShift | uintptr(given.Priority)
	}
	if given := process.ExecCPUAffinity; given != nil && given.Final != "" {
		var err error
		if s.processors, err = processorSet(given.Final); err != nil {
			return nil, err
		}
	}
	return &s, nil
}

// processorSet reads a list such as "0-3,7".
func processorSet(list string) ([]byte, error) {
	set := make([]byte, maxProcessors/8)
	for part := range strings.SplitSeq(list, ",") {
		from, to, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			to = from
		}
		first, err := strconv.ParseUint(from, 10, 16)
		last, lastErr := strconv.ParseUint(to, 10, 16)
		if err != nil || lastErr != nil || last < first || last >= maxProcessors {
			return nil, fmt.Errorf("processors %q: %w", list, errdefs.ErrInvalidArgument)
		}
		for n := first; n <= last; n++ {
			set[n/8] |= 1 << (n % 8)
		}
	}
	return set, nil
}

// apply has a process be scheduled so. It takes privilege.
func (s *scheduling) apply(p *fork.Plan) {
	if s.attributes != nil {
		p.Call("set the scheduler", unix.SYS_SCHED_SETATTR, 0, p.Bytes(s.attributes), 0)
	}
	if s.ioPriority != 0 {
		const oneProcess = 1
		p.Call("set the priority of input and output", unix.SYS_IOPRIO_SET, oneProcess, 0, s.ioPriority)
	}
	if s.processors != nil {
		p.Call("bind to processors", unix.SYS_SCHED_SETAFFINITY, 0, uintptr(len(s.processors)), p.Bytes(s.processors))
	}
}
