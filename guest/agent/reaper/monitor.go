package reaper

import (
	"os/exec"
	"runtime"

	runc "github.com/containerd/go-runc"
)

// Monitor lets go-runc start its commands through the reaper. Assign it to runc.Monitor before the first command.
func (r *Reaper) Monitor() runc.ProcessMonitor { return monitor{r} }

type monitor struct{ reaper *Reaper }

// Start starts a command; its exit comes on the channel once.
func (m monitor) Start(command *exec.Cmd) (chan runc.Exit, error) {
	child, err := m.start(command)
	if err != nil {
		return nil, err
	}
	exits := make(chan runc.Exit, 1)
	go report(child, exits)
	return exits, nil
}

// StartLocked is Start from a thread that lives as long as the command.
func (m monitor) StartLocked(command *exec.Cmd) (chan runc.Exit, error) {
	started := make(chan error, 1)
	exits := make(chan runc.Exit, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		child, err := m.start(command)
		started <- err
		if err == nil {
			report(child, exits)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return exits, nil
}

// Wait waits for a command's exit and for the copying of its output, where the command has some.
func (m monitor) Wait(command *exec.Cmd, exits chan runc.Exit) (int, error) {
	exit := <-exits
	// Its error says only that the process was reaped by somebody else: by us.
	_ = command.Wait()
	return exit.Status, nil
}

func (m monitor) start(command *exec.Cmd) (*Child, error) {
	hold := m.reaper.Hold()
	defer hold.Release()
	if err := command.Start(); err != nil {
		return nil, err
	}
	return hold.Claim(command.Process.Pid), nil
}

func report(child *Child, exits chan<- runc.Exit) {
	<-child.Done()
	exit := child.Exit()
	exits <- runc.Exit{Timestamp: exit.At, Pid: child.Pid(), Status: exit.Code()}
	close(exits)
}
