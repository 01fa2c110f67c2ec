package container

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

// entry is a thread's way into a container: it forks there, and ends.
type entry struct {
	launch
	init   int // pidfd of the container's init
	cgroup int // the container's group

	// Set before forked receives nil.
	pid     int
	console *terminal
	traced  bool // the process has stopped before its first instruction, and goes on after proceed is closed

	forked  chan error
	proceed chan struct{}
}

// namespaces are those of the init that a process joins. One that the container does not have of its own is the guest's, in which the
// thread is anyway.
const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP

// run does it, on a thread that is never used for anything else afterwards: its goroutine ends without unlocking it.
func (e *entry) run() {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// The process's first thread cannot be thrown away. While it is locked here, another goroutine has another thread.
		done := make(chan struct{})
		go func() { defer close(done); e.run() }()
		<-done
		runtime.UnlockOSThread()
		return
	}
	err := e.enter()
	e.forked <- err
	if err == nil && e.traced {
		<-e.proceed
		// A process that was killed meanwhile is not there to be let go.
		_ = unix.PtraceDetach(e.pid)
	}
}

// enter changes the thread into what the process is to be, and forks. The order matters: what needs privilege is done before it is dropped.
func (e *entry) enter() error {
	process := e.process
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("leave the agent's root: %w", err)
	}
	if err := unix.Setns(e.init, namespaces); err != nil {
		return fmt.Errorf("join the container's namespaces: %w", err)
	}
	umask := 0o022
	if process.User.Umask != nil {
		umask = int(*process.User.Umask)
	}
	unix.Umask(umask)
	files, closeFiles, err := e.files()
	if err != nil {
		return err
	}
	defer closeFiles()
	if err := unix.Chdir(process.Cwd); err != nil {
		return e.fail(fmt.Errorf("working directory %s: %w", process.Cwd, err))
	}
	if err := e.takeIdentity(); err != nil {
		return e.fail(err)
	}
	env := withHome(process.Env)
	program, err := lookup(process.Args[0], env)
	if err != nil {
		return e.fail(err)
	}
	if process.NoNewPrivileges {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return e.fail(fmt.Errorf("give up new privileges: %w", err))
		}
	}
	// A process that is traced stops when its program is loaded and has not begun: the one moment at which its limits can be set
	// without their hitting the agent.
	e.traced = hasLimits(process)
	e.pid, err = syscall.ForkExec(program, process.Args, &syscall.ProcAttr{
		Env: env, Files: files,
		Sys: &syscall.SysProcAttr{Setsid: true, Setctty: process.Terminal, UseCgroupFD: true, CgroupFD: e.cgroup, Ptrace: e.traced},
	})
	if err != nil {
		return e.fail(fmt.Errorf("program %q: %w", program, err))
	}
	return nil
}

// fail gives up what was made.
func (e *entry) fail(err error) error {
	if e.console != nil {
		e.console.Close()
	}
	return err
}

// files are the process's standard streams: a new terminal of the container, or the pipes that there are.
func (e *entry) files() (files []uintptr, done func(), err error) {
	if !e.process.Terminal {
		return []uintptr{e.io.process[0].Fd(), e.io.process[1].Fd(), e.io.process[2].Fd()}, func() {}, nil
	}
	console, tty, err := newConsole(e.size)
	if err != nil {
		return nil, nil, err
	}
	e.console = console
	fd := tty.Fd()
	return []uintptr{fd, fd, fd}, func() { tty.Close() }, nil
}

// newConsole makes a pseudo-terminal where the calling thread is, of that size if there is one.
func newConsole(size *protocol.Size) (*terminal, *os.File, error) {
	console, tty, err := openTerminal()
	if err != nil {
		return nil, nil, fmt.Errorf("open a terminal: %w", err)
	}
	if size != nil {
		if err := console.resize(*size); err != nil {
			console.Close()
			tty.Close()
			return nil, nil, fmt.Errorf("size of the terminal: %w", err)
		}
	}
	return console, tty, nil
}

// openTerminal makes a pseudo-terminal. Its /dev/ptmx may be anything: it is opened so that it cannot block, and what
// is not a terminal fails at the first question.
func openTerminal() (*terminal, *os.File, error) {
	control, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("/dev/ptmx: %w", err)
	}
	if err := unix.IoctlSetPointerInt(control, unix.TIOCSPTLCK, 0); err != nil {
		unix.Close(control)
		return nil, nil, fmt.Errorf("/dev/ptmx: %w", err)
	}
	tty, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(control), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		unix.Close(control)
		return nil, nil, fmt.Errorf("/dev/ptmx: %w", errno)
	}
	console, err := newTerminal(control)
	if err != nil {
		unix.Close(int(tty))
		return nil, nil, err
	}
	return console, os.NewFile(tty, "tty"), nil
}

// takeIdentity takes on the process's groups, capabilities and keyring; its user is root already. The system calls are made raw, since Go's
// own change every thread.
func (e *entry) takeIdentity() error {
	user := e.process.User
	groups := user.AdditionalGids
	var first unsafe.Pointer
	if len(groups) > 0 {
		first = unsafe.Pointer(&groups[0])
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(first), 0); errno != 0 {
		return fmt.Errorf("set groups: %w", errno)
	}
	gid := uintptr(user.GID)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); errno != 0 {
		return fmt.Errorf("set group: %w", errno)
	}
	// A session keyring of its own, as crun gives one to a container. A kernel without keyrings has none to share.
	if _, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0); err != nil && err != unix.ENOSYS {
		return fmt.Errorf("make a session keyring: %w", err)
	}
	sets, _ := capabilitySetsOf(e.process.Capabilities)
	return sets.apply()
}
