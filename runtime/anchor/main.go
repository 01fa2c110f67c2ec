package anchor

import (
	"fmt"
	"math"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// reportFD is the pipe on which an anchor says why it did not come up; it closes without a word when it did.
const reportFD = 3

// MainIfAsked becomes an anchor if this program was started as one, and then never returns. A program that uses Start calls it
// first in its main.
func MainIfAsked() {
	if len(os.Args) != 4 || os.Args[1] != verb {
		return
	}
	// An anchor holds nothing open: neither the standard streams nor what its starter let slip.
	_ = unix.CloseRange(0, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	if err := settle(os.Args[2], os.Args[3]); err != nil {
		_, _ = unix.Write(reportFD, []byte(err.Error()))
		os.Exit(1)
	}
	_ = becomeSleeper()
	// It could not (a host that forbids running memory files, an architecture without a sleeper): stay as it is.
	_ = unix.CloseRange(0, math.MaxUint32, 0)
	for {
		_ = unix.Pause()
	}
}

// settle moves this process to its place. The thread is locked because a network namespace is joined by a thread; the sleeper
// that replaces the process keeps that thread's.
func settle(rootfs, netns string) error {
	runtime.LockOSThread()
	if netns != "" {
		fd, err := unix.Open(netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open network namespace %s: %w", netns, err)
		}
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("join network namespace %s: %w", netns, err)
		}
	}
	if err := unix.Chroot(rootfs); err != nil {
		return fmt.Errorf("enter root directory %s: %w", rootfs, err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("enter root directory %s: %w", rootfs, err)
	}
	// Ignored signals stay ignored across exec. The ones left out tell of a fault of the process itself.
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGPIPE,
		syscall.SIGALRM, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGVTALRM, syscall.SIGPROF, syscall.SIGXCPU,
		syscall.SIGIO, syscall.SIGPWR)
	return nil
}
