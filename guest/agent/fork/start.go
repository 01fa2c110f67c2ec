package fork

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// cloneArgs is struct clone_args of clone3(2).
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// sigset is a set of signals as the kernel has it, and sizeofSigset its size.
type sigset [1]uint64

const sizeofSigset = unsafe.Sizeof(sigset{})

// Start makes the process, in a control group (its directory's descriptor; negative: this thread's), with the flags of clone3(2). It has
// what the calling thread has: the goroutine has to be locked to it. It returns the process's id.
func (p *Plan) Start(cgroup int, flags uint64) (pid int, err error) {
	if p.err != nil {
		return 0, p.err
	}
	// All signals are blocked at first in the process, and none has a handler.
	arguments := cloneArgs{flags: flags | unix.CLONE_CLEAR_SIGHAND, exitSignal: uint64(unix.SIGCHLD)}
	if cgroup >= 0 {
		arguments.flags |= unix.CLONE_INTO_CGROUP
		arguments.cgroup = uint64(cgroup)
	}
	all, before := sigset{^uint64(0)}, sigset{}
	if err := setMask(&all, &before); err != nil {
		return 0, err
	}
	pid, err = p.fork(&arguments)
	if err = errors.Join(err, setMask(&before, nil)); err == nil {
		p.closeTheirs()
	}
	return pid, err
}

// fork makes the process, without most of this one's memory.
func (p *Plan) fork(arguments *cloneArgs) (int, error) {
	withheld := p.withheld()
	// Nobody else makes a process now, which may be one that needs the memory, or has a descriptor that is not to be inherited.
	syscall.ForkLock.Lock()
	defer syscall.ForkLock.Unlock()
	if err := advise(withheld, unix.MADV_DONTFORK); err != nil {
		return 0, errors.Join(err, advise(withheld, unix.MADV_DOFORK))
	}
	pid, errno := fork(arguments, p.list, len(withheld) != 0)
	if err := advise(withheld, unix.MADV_DOFORK); err != nil {
		return int(pid), err
	}
	if errno != 0 {
		return 0, fmt.Errorf("fork: %w", errno)
	}
	return int(pid), nil
}

// setMask sets the signals that the calling thread does not take.
func setMask(mask, before *sigset) error {
	_, _, errno := syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(mask)),
		uintptr(unsafe.Pointer(before)), sizeofSigset, 0, 0)
	if errno != 0 {
		return fmt.Errorf("block signals: %w", errno)
	}
	return nil
}

// stackRoom is how much of the stack on either side of its own frame a process needs, in bytes.
const stackRoom = 512

// fork makes the process. In it, it does not return. What comes after the fork must not need the runtime: it grows no stack, allocates
// nothing and writes no pointer. alone: the process has nothing of this one's memory but what it executes, the list and, by this
// function's doing, the stack around its frame.
//
//go:norace
//go:nosplit
//go:noinline
//go:nocheckptr
func fork(arguments *cloneArgs, calls *list, alone bool) (pid uintptr, errno syscall.Errno) {
	var frame byte // from here on the stack stays where it is
	here := uintptr(unsafe.Pointer(&frame))
	low, high := stackAround(here)
	if alone {
		if _, _, errno := syscall.RawSyscall(unix.SYS_MADVISE, low, high-low, unix.MADV_DOFORK); errno != 0 {
			return 0, errno
		}
	}
	pid, _, errno = syscall.RawSyscall6(unix.SYS_CLONE3, uintptr(unsafe.Pointer(arguments)), unsafe.Sizeof(*arguments), 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	if alone {
		for old := stackRoom; old < int(here-low); old++ { // the remains of earlier calls
			*(*byte)(unsafe.Add(unsafe.Pointer(&frame), -old)) = 0
		}
	}
	for i := 0; i < calls.count && i < maxCalls; i++ {
		c := &calls.calls[i]
		result, _, failure := syscall.RawSyscall6(c.number, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5])
		if failure == 0 && result < c.least {
			failure = syscall.EPIPE
		}
		if failure != 0 && c.next != may {
			c.errno = failure
			if c.next != try {
				break
			}
		}
		if c.next == divide && result != 0 {
			break
		}
	}
	for {
		syscall.RawSyscall6(unix.SYS_EXIT_GROUP, 0, 0, 0, 0, 0, 0)
	}
}

// AwaitHold waits until the process waits. If it ends before that, the error says why.
func (p *Plan) AwaitHold(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { _ = p.ours.SetReadDeadline(time.Now()) })()
	_, err := p.ours.Read(make([]byte, 1))
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, io.EOF):
		if err := p.failure(); err != nil {
			return err
		}
		return errors.New("the new process was killed")
	}
	return err
}

// Proceed lets the process go on that waits.
func (p *Plan) Proceed() error {
	if p.err != nil {
		return p.err
	}
	_, err := p.ours.Write([]byte{0})
	return err
}

// Await waits until the process is a program or has ended. If a call has failed, the error is a CallError; a
// process that was killed on its way is none. On an error of ctx it is still on its way.
func (p *Plan) Await(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { _ = p.ours.SetReadDeadline(time.Now()) })()
	_, err := p.ours.Read(make([]byte, 1))
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET):
		return p.failure()
	}
	return fmt.Errorf("wait for the new process: %w", err)
}

// Divided is the id of the process that has taken the place of the one that was started, once that is held or awaited; 0 if there is none.
func (p *Plan) Divided() int {
	if p.pid == nil {
		return 0
	}
	return int(*p.pid)
}

// CallError is a system call that has ended a process on its way.
type CallError struct {
	Call  string // its name, or the file that could not be executed
	Errno syscall.Errno
	Exec  bool // it was to execute the program: no file could be
}

func (e *CallError) Error() string { return fmt.Sprintf("%s: %v", e.Call, e.Errno) }

// Unwrap returns the kernel's reason.
func (e *CallError) Unwrap() error { return e.Errno }

// failure is why the process has ended; nil if it has not, or was killed.
func (p *Plan) failure() error {
	var failed *CallError
	for i := range p.count {
		c := &p.calls[i]
		switch {
		case c.errno == 0 && c.next == try:
			return nil // it was executed
		case c.errno == 0:
		case c.next != try:
			return &CallError{Call: p.names[i], Errno: c.errno}
		// A file that is there but cannot be executed is more of a reason than one that is not there, as for execvp(3).
		case failed == nil || c.errno != unix.ENOENT && c.errno != unix.ENOTDIR:
			failed = &CallError{Call: p.names[i], Errno: c.errno, Exec: true}
		}
	}
	if failed == nil {
		return nil
	}
	return failed
}
