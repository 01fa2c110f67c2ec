package hypervisor

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
)

// Cgroup is a cgroup of the host as the place where processes are started. Its zero value is no place: they start where their
// starter is.
type Cgroup struct {
	V1 []CgroupV1 // one for each hierarchy of cgroup v1
	V2 string     // its directory in the hierarchy of cgroup v2; empty: there is none
}

// CgroupV1 is a cgroup in one hierarchy of cgroup v1.
type CgroupV1 struct {
	Dir  string // its directory
	Home string // the directory of the starter's own cgroup in that hierarchy
}

// Directories lists the cgroup's directory in every hierarchy.
func (c Cgroup) Directories() []string {
	var directories []string
	for _, hierarchy := range c.V1 {
		directories = append(directories, hierarchy.Dir)
	}
	if c.V2 != "" {
		directories = append(directories, c.V2)
	}
	return directories
}

// Start is cmd.Start in the cgroup: neither the program nor what it forks is ever anywhere else.
//
// With cgroup v2 the kernel makes the new process in a directory that it is given. With v1, where threads of one process may be in
// different cgroups and a new process begins in that of the thread that forked, this thread is there for that moment. It moves
// itself, which takes microseconds; moving another process or thread waits for every processor, 10 ms for each hierarchy.
func (c Cgroup) Start(cmd *exec.Cmd) error {
	if c.V2 != "" {
		dir, err := os.Open(c.V2)
		if err != nil {
			return fmt.Errorf("start in cgroup: %w", err)
		}
		defer dir.Close()
		if cmd.SysProcAttr == nil {
			cmd.SysProcAttr = &syscall.SysProcAttr{}
		}
		cmd.SysProcAttr.UseCgroupFD = true
		cmd.SysProcAttr.CgroupFD = int(dir.Fd())
	}
	runtime.LockOSThread()
	err := c.enter()
	if err == nil {
		err = cmd.Start()
	}
	if homeErr := c.leave(); homeErr != nil {
		if err == nil {
			_ = cmd.Process.Kill() // it is our child, not waited for yet
			_ = cmd.Wait()         // killed
		}
		return errors.Join(err, homeErr) // the thread stays locked, and so ends with its goroutine
	}
	runtime.UnlockOSThread()
	return err
}

// enter moves this thread to the cgroup in every hierarchy of cgroup v1.
func (c Cgroup) enter() error {
	for _, hierarchy := range c.V1 {
		if err := moveThread(hierarchy.Dir); err != nil {
			return fmt.Errorf("start in cgroup: %w", err)
		}
	}
	return nil
}

// leave moves this thread back to where the rest of this process is.
func (c Cgroup) leave() error {
	var errs []error
	for _, hierarchy := range c.V1 {
		if err := moveThread(hierarchy.Home); err != nil {
			errs = append(errs, fmt.Errorf("return to own cgroup: %w", err))
		}
	}
	return errors.Join(errs...)
}

// moveThread moves this thread to a cgroup of a v1 hierarchy. The file's "0" stands for who writes it.
func moveThread(dir string) error {
	return os.WriteFile(filepath.Join(dir, "tasks"), []byte("0"), 0)
}
