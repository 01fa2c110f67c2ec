package execsidecar

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// localProcess is a child of this process.
type localProcess struct {
	cmd    *exec.Cmd
	leader bool // of a process group
	ended  chan struct{}
	result Result // once ended

	mu   sync.Mutex
	gone bool // its pid may be another's from now on
}

// StartLocal is the Starter of this machine. A command leads a process group of its own, unless it joins one, so that what it starts can be
// reached with it.
func StartLocal(_ context.Context, command Command, files Files) (Process, error) {
	defer files.Close()
	cmd, err := plan(command, os.Environ(), os.Geteuid() == 0)
	if err != nil {
		return nil, err
	}
	// Not the nil interfaces that nil files would make.
	for i, stream := range []func(*os.File){
		func(file *os.File) { cmd.Stdin = file },
		func(file *os.File) { cmd.Stdout = file },
		func(file *os.File) { cmd.Stderr = file },
	} {
		if files[i] != nil {
			stream(files[i])
		}
	}
	attributes := cmd.SysProcAttr
	p := &localProcess{cmd: cmd, leader: attributes.Setsid || attributes.Pgid == 0, ended: make(chan struct{})}
	started := make(chan error)
	go p.run(started)
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// plan says how a command is started on this machine by root or another user.
func plan(command Command, environment []string, root bool) (*exec.Cmd, error) {
	if command.Startup&IgnoreHangUp != 0 {
		return nil, fmt.Errorf("a start that ignores SIGHUP: run it with nohup(1): %w", unix.EOPNOTSUPP)
	}
	if command.Dir != "" {
		if info, err := os.Stat(command.Dir); err != nil || !info.IsDir() {
			return nil, fmt.Errorf("working directory: %w", errors.Join(err, unix.ENOTDIR))
		}
	}
	for _, variable := range command.Env {
		environment = append(environment, variable.Name+"="+variable.Value)
	}
	program, err := lookUp(command.Program, command.Dir, environment)
	if err != nil {
		return nil, err
	}
	attributes := &syscall.SysProcAttr{Setsid: command.Startup&(NewSession|DetachTerminal) != 0}
	if !attributes.Setsid { // who leads a session leads a group
		attributes.Setpgid = true
		if command.Startup&JoinGroup != 0 {
			attributes.Pgid = int(command.Group)
		}
	}
	if command.DeathSignal > 0 && command.DeathSignal <= maxSignalNumber {
		attributes.Pdeathsig = syscall.Signal(command.DeathSignal)
	}
	if command.UID >= 0 || command.GID >= 0 {
		attributes.Credential = &syscall.Credential{Uid: uint32(os.Getuid()), Gid: uint32(os.Getgid()), NoSetGroups: !root}
		if command.UID >= 0 {
			attributes.Credential.Uid = uint32(command.UID)
		}
		if command.GID >= 0 {
			attributes.Credential.Gid = uint32(command.GID)
		}
	}
	return &exec.Cmd{
		Path: program, Args: append([]string{command.Program}, command.Args...), Env: environment, Dir: command.Dir, SysProcAttr: attributes,
	}, nil
}

// lookUp finds the program where the command's own PATH says.
func lookUp(program, dir string, environment []string) (string, error) {
	if strings.Contains(program, "/") {
		return program, nil
	}
	search := ""
	for _, variable := range environment {
		if value, ok := strings.CutPrefix(variable, "PATH="); ok {
			search = value // the last one counts
		}
	}
	var denied error
	for _, place := range filepath.SplitList(search) {
		if !filepath.IsAbs(place) {
			place = filepath.Join(dir, place)
		}
		path := filepath.Join(place, program)
		info, err := os.Stat(path)
		switch {
		case err != nil || info.IsDir():
		case info.Mode()&0o111 == 0:
			denied = fmt.Errorf("%s: %w", path, unix.EACCES)
		default:
			return path, nil
		}
	}
	if denied != nil {
		return "", denied
	}
	return "", fmt.Errorf("%s: not found in PATH %q: %w", program, search, unix.ENOENT)
}

// run starts the process and waits for its end. The kernel takes the thread that started a process for its parent: as this one is kept
// until the process has ended, the death signal comes at the death of the server only.
func (p *localProcess) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	for {
		// Until it is reaped its pid is not another's.
		err := unix.Waitid(unix.P_PID, p.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	p.mu.Lock()
	p.gone = true
	p.mu.Unlock()
	_ = p.cmd.Wait() // the state says all
	if status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		p.result = Result{ResultSignaled, int32(status.Signal())}
	} else if ok && status.Exited() {
		p.result = Result{ResultExited, int32(status.ExitStatus())}
	}
	close(p.ended)
}

func (p *localProcess) PID() int { return p.cmd.Process.Pid }

func (p *localProcess) Signal(signal unix.Signal, group bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return nil
	}
	target := p.PID()
	if group && p.leader {
		target = -target
	}
	if err := unix.Kill(target, signal); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", target, err)
	}
	return nil
}

func (p *localProcess) HangUp(signal unix.Signal) error { return p.Signal(signal, true) }

func (p *localProcess) Close() {}

func (p *localProcess) Wait() Result {
	<-p.ended
	return p.result
}
