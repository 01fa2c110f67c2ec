package container

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel drops a signal to the first process of a pid namespace that has no handler for it (pid_namespaces(7)), and a program has
// none in its first moments. On hardware those are a millisecond. Under emulation it takes a good part of a second to load and to set
// up a program, in which an orderly stop would be lost. So such a signal is kept until there is a handler, for settleTime after the
// start at most.
const (
	settleTime = 5 * time.Second
	// settleStep is how often to look. There is no event to wait for.
	settleStep = 10 * time.Millisecond
)

// signal sends a signal to the process; one that has ended is no error.
func (p *Process) signal(signal unix.Signal) error {
	if p.init && p.settling() && p.drops(signal) {
		go p.signalSettled(signal)
		return nil
	}
	return p.child.Signal(signal)
}

func (p *Process) settling() bool { return time.Since(p.began) < settleTime }

// signalSettled sends a signal once it is not dropped any more, or the time is over.
func (p *Process) signalSettled(signal unix.Signal) {
	ticker := time.NewTicker(settleStep)
	defer ticker.Stop()
	for p.settling() && p.drops(signal) {
		select {
		case <-ticker.C:
		case <-p.child.Done():
			return
		}
	}
	if err := p.child.Signal(signal); err != nil {
		p.logger.Warn("a signal that was kept is not sent", "signal", int(signal), "error", err)
	}
}

// drops tells whether the kernel would drop the signal now.
func (p *Process) drops(signal unix.Signal) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.child.Pid()))
	return err == nil && dropped(string(status), signal)
}

// dropped tells whether a process with that /proc/pid/status (proc(5)) gets a signal: the first of a namespace does if it handles the
// signal, and if it blocks it, later. One that it ignores is not to be kept for it.
func dropped(status string, signal unix.Signal) bool {
	if signal == 0 || signal == unix.SIGKILL || signal == unix.SIGSTOP {
		return false
	}
	first := false
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch name {
		case "NSpid":
			pids := strings.Fields(value)
			first = len(pids) > 1 && pids[len(pids)-1] == "1"
		case "SigBlk", "SigIgn", "SigCgt":
			mask, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			if err != nil || mask>>(signal-1)&1 == 1 {
				return false
			}
		}
	}
	return first
}
