package hypervisor

import (
	"os/exec"
	"runtime"
	"syscall"
)

// StartBound starts a command that the kernel kills should this process die, and then calls wait in the background, which has to
// wait for the command's end. It returns what cmd.Start does; wait is not called after an error.
func StartBound(cmd *exec.Cmd, wait func()) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started := make(chan error)
	go func() {
		// The death signal comes with the end of the thread that forked, so that thread does nothing else until the command ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			wait()
		}
	}()
	return <-started
}
