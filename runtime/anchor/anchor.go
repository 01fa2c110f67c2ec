// Package anchor is the host process that stands for a container: what containerd takes for its task's pid.
//
// Tools look at a task through /proc/PID: ns/net to connect its network, root to copy files. So an anchor lives in the
// container's network namespace, is rooted in the container's root file system, and does nothing. It is this program, started
// again with the argument "anchor"; once it has settled it replaces itself with a program of a few bytes that only sleeps, so
// that a container does not cost the memory of a Go runtime.
//
// It ignores every signal that can be ignored, so that nobody ends it by accident: who wants to end the container asks containerd.
// Who kills it means the container, and its owner has Wait to see to that. The kernel ends it should its starter die.
package anchor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"

	"github.com/limpet-run/limpet/hypervisor"
)

// verb is the argument that makes this program an anchor.
const verb = "anchor"

// maxReport bounds what is read of an anchor's reason for not coming up.
const maxReport = 4096

// Options says where an anchor lives.
type Options struct {
	// Rootfs becomes the anchor's root directory.
	Rootfs string
	// NetNS is the path of the network namespace to join. Empty: a new one if NewNetNS, else the caller's.
	NetNS    string
	NewNetNS bool
	Cgroup   hypervisor.Cgroup // where it is counted
}

// Anchor is a running anchor. Its starter must Stop it.
type Anchor struct {
	cmd     *exec.Cmd
	exited  chan struct{}
	stopped atomic.Bool // Stop has been called
}

// Start starts an anchor and returns once it has reached its place.
func Start(ctx context.Context, options Options) (*Anchor, error) {
	report, reportWriter, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start anchor: %w", err)
	}
	defer report.Close()
	cmd := exec.Command("/proc/self/exe", verb, options.Rootfs, options.NetNS)
	cmd.Env = []string{"GOMAXPROCS=1"} // it does one thing after the other
	cmd.ExtraFiles = []*os.File{reportWriter}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if options.NetNS == "" && options.NewNetNS {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET
	}
	anchor := &Anchor{cmd: cmd, exited: make(chan struct{})}
	err = hypervisor.StartBound(cmd, options.Cgroup, func() {
		_ = cmd.Wait() // it ends by being killed; how is of no interest
		close(anchor.exited)
	})
	reportWriter.Close()
	if err != nil {
		return nil, fmt.Errorf("start anchor: %w", err)
	}
	// The pipe closes when the anchor has settled. Killing the anchor closes it too, so a cancelled context ends the read.
	cancelled := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	message, err := io.ReadAll(io.LimitReader(report, maxReport))
	if err == nil && len(message) > 0 {
		err = errors.New(string(message))
	}
	if !cancelled() {
		err = context.Cause(ctx)
	}
	if err == nil && anchor.gone() {
		err = errors.New("it ended at once")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start anchor in %s: %w", options.Rootfs, err), anchor.Stop(context.WithoutCancel(ctx)))
	}
	return anchor, nil
}

// PID is the anchor's process identifier on the host.
func (a *Anchor) PID() int { return a.cmd.Process.Pid }

// Wait waits for the anchor's end and tells whether somebody else than Stop has ended it.
func (a *Anchor) Wait() (killed bool) {
	<-a.exited
	return !a.stopped.Load()
}

// Stop kills the anchor and waits until it is gone. It may be called more than once.
func (a *Anchor) Stop(ctx context.Context) error {
	a.stopped.Store(true)
	if err := a.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill anchor %d: %w", a.PID(), err)
	}
	select {
	case <-a.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("anchor %d has not ended: %w", a.PID(), context.Cause(ctx))
	}
}

// gone tells whether the anchor has ended.
func (a *Anchor) gone() bool {
	select {
	case <-a.exited:
		return true
	default:
		return false
	}
}
