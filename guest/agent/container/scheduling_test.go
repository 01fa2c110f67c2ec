package container

import (
	"bytes"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestScheduling(t *testing.T) {
	h := newHost(t)
	h.run("c", h.spec("sh", "-c", "echo up; exec sleep 1000")).expect("up")
	const look = "read a b c d e f g h i j k l m n o p q r nice rest </proc/self/stat; echo $nice; grep Cpus_allowed_list /proc/self/status"
	process := h.spec("sh", "-c", look).Process
	process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 7, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork}}
	process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 5}
	process.ExecCPUAffinity = &specs.CPUAffinity{Final: "0"}
	if out := h.exec("c", process).output("stdout"); out != "7\nCpus_allowed_list:\t0\n" {
		t.Errorf("it says %q", out)
	}
	for name, change := range map[string]func(*specs.Process){
		"policy":     func(p *specs.Process) { p.Scheduler = &specs.Scheduler{Policy: "SCHED_NEW"} },
		"flag":       func(p *specs.Process) { p.Scheduler.Flags = []specs.LinuxSchedulerFlag{"NEW"} },
		"class":      func(p *specs.Process) { p.IOPriority = &specs.LinuxIOPriority{Class: "NEW"} },
		"priority":   func(p *specs.Process) { p.IOPriority.Priority = 8 },
		"processors": func(p *specs.Process) { p.ExecCPUAffinity = &specs.CPUAffinity{Final: "3-1"} },
	} {
		bad := h.spec("true").Process
		bad.Scheduler, bad.IOPriority = &specs.Scheduler{Policy: specs.SchedOther}, &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_IDLE}
		change(bad)
		if _, err := schedulingOf(bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for list, want := range map[string][]byte{
		"0": {1}, "1-3,8": {14, 1}, "0, 2": {5}, "": nil, "a": nil, "1024": nil, "0-": nil,
	} {
		set, err := processorSet(list)
		if (err == nil) != (want != nil) || !bytes.Equal(bytes.TrimRight(set, "\x00"), want) {
			t.Errorf("%q: %v, %v, want %v", list, set, err, want)
		}
	}
}
