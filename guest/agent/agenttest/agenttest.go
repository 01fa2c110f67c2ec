// Package agenttest is what tests of the agent's packages need to run containers on the machine that they are tested on.
package agenttest

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	runc "github.com/containerd/go-runc"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/agent/reaper"
)

// isolated marks the process that has the namespaces.
const isolated = "LIMPET_TEST_ISOLATED"

// Main runs a package's tests, and ends the process. If it may, they are run by PID 1 of namespaces of their own: with a control group
// hierarchy (version 2) at its usual place, whatever the machine they run on has there. The kernel ends with them whatever they leave.
func Main(m *testing.M) {
	if os.Getenv(isolated) != "" {
		if err := isolate(); err != nil {
			fmt.Fprintln(os.Stderr, "prepare the test's namespaces:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	// The fuzzer speaks with its workers by descriptors and processes of its own; what it tests needs no namespaces.
	fuzzing := slices.ContainsFunc(os.Args, func(arg string) bool { return strings.HasPrefix(arg, "-test.fuzz") })
	if os.Getuid() != 0 || fuzzing {
		os.Exit(m.Run())
	}
	runtime.LockOSThread() // Pdeathsig is the thread's
	command := exec.Command("/proc/self/exe", os.Args[1:]...)
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	command.Env = append(os.Environ(), isolated+"=1")
	command.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID, Pdeathsig: unix.SIGKILL}
	err := command.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(exit.ExitCode())
	} else if err != nil {
		fmt.Fprintln(os.Stderr, "start the isolated tests:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func isolate() error {
	// An init has inherited nothing that its children could.
	if err := unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return err
	}
	return unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, "")
}

// NeedRoot skips a test that runs without the namespaces of Main.
func NeedRoot(t *testing.T) {
	t.Helper()
	if os.Getenv(isolated) == "" {
		t.Skip("needs root")
	}
}

// Reaper is the one of this process, started by the first test that needs it.
var Reaper = sync.OnceValue(func() *reaper.Reaper {
	r := reaper.New()
	runc.Monitor = r.Monitor()
	go r.Run()
	return r
})
