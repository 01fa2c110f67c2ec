// Package child runs the programs that a machine consists of: each in a process group of its own, always waited for, ended by the
// kernel should this process die, and with the end of its error output kept for the error of who needed it.
package child

import (
	"errors"
	"fmt"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/hypervisor"
)

const (
	// logSize is enough for the last words of a program that cannot start.
	logSize = 4 << 10
	// logLines of them go into an error.
	logLines = 5
	// drainTime is how long output is read after the program has ended: what it wrote is in the pipe already, and only a
	// process that escaped from the group could keep it open.
	drainTime = time.Second
)

// Child is a running or ended program.
type Child struct {
	process hypervisor.Process
	cmd     *exec.Cmd
	log     *Tail
	done    chan struct{}
	err     error // valid after done

	mu     sync.Mutex
	reaped bool // the pid may be somebody else's
}

// Start runs the command in the cgroup. Its standard error is kept in memory.
func Start(name string, cmd *exec.Cmd, cgroup hypervisor.Cgroup) (*Child, error) {
	c := &Child{cmd: cmd, log: NewTail(logSize), done: make(chan struct{})}
	cmd.Stderr = c.log
	cmd.WaitDelay = drainTime
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C at our terminal is not for it
	described := make(chan struct{})
	defer close(described)
	err := hypervisor.StartBound(cmd, cgroup, func() {
		<-described
		c.wait()
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	// Nobody has waited for it yet, so that the pid is its own. One that cannot be described is killed.
	if c.process, err = hypervisor.NewProcess(name, cmd.Process.Pid); err != nil {
		c.Kill()
		return nil, err
	}
	return c, nil
}

// wait ends with the program. While the ended program has not been reaped its pid, and so its group's, cannot be reused: what it
// left in the group is killed in between.
func (c *Child) wait() {
	for {
		err := unix.Waitid(unix.P_PID, c.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	c.Kill()
	c.mu.Lock()
	c.reaped = true
	c.mu.Unlock()
	c.err = c.cmd.Wait()
	close(c.done)
}

// Process identifies the program to others.
func (c *Child) Process() hypervisor.Process { return c.process }

// Done is closed when the program has ended and its output has been read.
func (c *Child) Done() <-chan struct{} { return c.done }

// Err is nil if the program ended with status 0, or what it ended with. It is valid after Done.
func (c *Child) Err() error { return c.err }

// Kill ends the program and what it forked, at once. Done follows.
func (c *Child) Kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.reaped {
		_ = unix.Kill(-c.cmd.Process.Pid, unix.SIGKILL) // fails only if all of the group has ended
	}
}

// Explain adds to err what is known of the program: how it ended, if it has, and its last words.
func (c *Child) Explain(err error) error {
	if err == nil {
		return nil
	}
	select {
	case <-c.done:
		status := c.err
		if status == nil {
			status = errors.New("exit status 0")
		}
		err = fmt.Errorf("%w: %s ended: %w", err, c.process.Name, status)
	default:
	}
	if words := c.LastWords(); words != "" {
		err = fmt.Errorf("%w: %s said: %s", err, c.process.Name, words)
	}
	return err
}

// LastWords is the end of the program's error output.
func (c *Child) LastWords() string { return c.log.LastLines(logLines) }
