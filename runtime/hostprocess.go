package runtime

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/hypervisor"
)

// killProcess kills a process and its group, if it is still the one described, and waits until it is gone. It need not be a
// child.
func killProcess(ctx context.Context, process hypervisor.Process) error {
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
	if err := errors.Join(ended(unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)), ended(unix.Kill(-process.PID, unix.SIGKILL))); err != nil {
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

// ended makes nothing of the error of a signal to a process that has ended.
func ended(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}
