package shim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// orphanGrace is how long a dead child may lie about before it counts as nobody's. Each child that the shim has started has a goroutine in
// Wait, which takes microseconds; a descendant that was left to the shim when its own parent died has none.
const orphanGrace = time.Second

// adoptOrphans makes the process the parent of descendants whose parents die, and reaps them until ctx ends.
func adoptOrphans(ctx context.Context, logger *slog.Logger) error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become subreaper: %w", err)
	}
	deaths := make(chan os.Signal, 1)
	signal.Notify(deaths, unix.SIGCHLD)
	go func() {
		defer signal.Stop(deaths)
		reapOrphans(ctx, deaths, orphanGrace, logger)
	}()
	return nil
}

// reapOrphans looks at the dead children some time after a death. It only looks, so that it does not take a child's status from who waits
// for it; one that is seen twice is an orphan, as a process id is not used again before it is reaped.
func reapOrphans(ctx context.Context, deaths <-chan os.Signal, grace time.Duration, logger *slog.Logger) {
	var look <-chan time.Time
	suspect := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-deaths:
			if look == nil {
				look = time.After(grace)
			}
			continue
		case <-look:
			look = nil
		}
		pid := deadChild()
		if pid != 0 && pid == suspect {
			err := reap(pid)
			logger.Debug("orphan reaped", "pid", pid, "error", err)
			pid = deadChild()
		}
		if suspect = pid; suspect != 0 {
			look = time.After(grace)
		}
	}
}

// childInfo is the part of siginfo_t that waitid fills in, as 64-bit Linux lays it out; package unix leaves it opaque.
type childInfo struct {
	_   [4]int32 // signal, errno, code, padding
	pid int32
}

// deadChild returns a child that has ended and was not waited for, or 0. It leaves it as it is.
func deadChild() int {
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); err != nil {
		return 0 // there are no children
	}
	return int((*childInfo)(unsafe.Pointer(&info)).pid)
}

// reap takes the status of a dead child. One that has just been taken by another is no error.
func reap(pid int) error {
	if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOHANG, nil); err != nil && !errors.Is(err, unix.ECHILD) {
		return err
	}
	return nil
}
