package hypervisor

import (
	"os/exec"
	"runtime"
	"syscall"
)

// StartBound starts a command in the cgroup. The kernel kills it should this process die. Then wait is called in the background,
// which has to wait for the command's end. It returns what Cgroup.Start does; wait is not called after an error.
func StartBound(cmd *exec.Cmd, cgroup Cgroup, wait func()) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started := make(chan error)
	go func() {
		// The death signal comes with the end of the thread that forked, so that thread does nothing else until the command ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cgroup.Start(cmd)
		started <- err
		if err == nil {
			wait()
		}
	}()
	return <-started
}
