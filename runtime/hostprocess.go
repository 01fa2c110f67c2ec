package runtime

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/hypervisor"
)

// HostProcess is a process of this host, described so that another one that gets its pid later is not taken for it.
type HostProcess = hypervisor.Process

// DescribeProcess describes the process that has the pid now.
func DescribeProcess(name string, pid int) (HostProcess, error) {
	return hypervisor.NewProcess(name, pid)
}

// EndProcess kills a process, if it is still the one described, and waits until it is gone. It need not be a child. That it is gone
// already is no error.
func EndProcess(ctx context.Context, process HostProcess) error {
	return endProcess(ctx, process, func(fd int) error { return unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) })
}

// AwaitProcess waits until a process is gone, if it is still the one described. It need not be a child.
func AwaitProcess(ctx context.Context, process HostProcess) error {
	return endProcess(ctx, process, func(int) error { return nil })
}

// endGroup is EndProcess for the leader of a process group, and all that is in it.
func endGroup(ctx context.Context, leader HostProcess) error {
	return endProcess(ctx, leader, func(int) error { return unix.Kill(-leader.PID, unix.SIGKILL) })
}

func endProcess(ctx context.Context, process HostProcess, kill func(fd int) error) error {
	fd, err := unix.PidfdOpen(process.PID, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("end %s (process %d): %w", process.Name, process.PID, err)
	}
	defer unix.Close(fd)
	// The descriptor holds the process fast; what it holds is compared after it was opened.
	if now, err := hypervisor.NewProcess(process.Name, process.PID); err != nil || now.StartTime != process.StartTime {
		return nil // gone, and perhaps the number is someone else's
	}
	if err := kill(fd); err != nil && !errors.Is(err, unix.ESRCH) { // it has just ended
		return fmt.Errorf("end %s (process %d): %w", process.Name, process.PID, err)
	}
	for {
		timeout := -1
		if deadline, ok := ctx.Deadline(); ok {
			timeout = max(0, int(time.Until(deadline).Milliseconds()))
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, timeout)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait for the end of %s (process %d): %w", process.Name, process.PID, err)
		case n == 0:
			return fmt.Errorf("%s (process %d) does not end: %w", process.Name, process.PID, context.DeadlineExceeded)
		default:
			return nil
		}
	}
}
