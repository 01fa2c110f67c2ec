// Package reaper collects every child of this process, the ones that it started and the ones that it inherited, and hands each
// exit status to whoever asked for it.
//
// A process that is PID 1 is given orphans that it never started, and has to wait for them all. Only one party may do that: a
// wait4(-1) beside a wait for one pid takes its status away. So nothing else here waits for a child, and whoever starts one does it
// inside a Hold:
//
//	hold := r.Hold()             // from here on no exit status is thrown away
//	defer hold.Release()
//	pid := ...                   // fork, or learn the pid of an orphan to be
//	child := hold.Claim(pid)     // finds the status also of a process that has ended meanwhile
//
// The states of a pid: unknown -> (claimed | ended during a hold) -> claimed and ended. A pid that ends outside of any hold and was
// not claimed is an orphan that nobody asked for: it is reaped and forgotten.
package reaper

import (
	"fmt"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Exit is how and when a process ended.
type Exit struct {
	Status unix.WaitStatus
	At     time.Time
}

// Code is the exit code as a shell counts: 0..255, 128+n for a death by signal n.
func (e Exit) Code() int {
	if e.Status.Signaled() {
		return 128 + int(e.Status.Signal())
	}
	return e.Status.ExitStatus()
}

// Child is a claimed process.
type Child struct {
	reaper *Reaper
	pid    int
	done   chan struct{}
	exit   Exit
	ended  bool // guarded by reaper.mu
}

// Reaper is the one that waits. Its zero value is not ready: use New.
type Reaper struct {
	mu       sync.Mutex
	changed  *sync.Cond
	births   uint64 // claims so far: a waiter without children sleeps until it changes
	holds    int
	children map[int]*Child
	// unclaimed holds what happened, during holds, to pids that nobody has claimed yet. It has at most one entry per pid.
	unclaimed map[int]*Child
}

// New makes a reaper; Run starts it.
func New() *Reaper {
	// The os package finds out on first use whether pidfds work, by waiting for a child of its own. Let it do so while nobody else waits.
	if p, err := os.FindProcess(os.Getpid()); err == nil {
		p.Release()
	}
	r := &Reaper{children: map[int]*Child{}, unclaimed: map[int]*Child{}}
	r.changed = sync.NewCond(&r.mu)
	return r
}

// Run reaps for ever. It blocks one thread.
func (r *Reaper) Run() error {
	for {
		r.mu.Lock()
		births := r.births
		r.mu.Unlock()
		pid, err := peek()
		switch err {
		case nil:
			r.collect(pid)
		case unix.EINTR:
		case unix.ECHILD:
			r.mu.Lock()
			for r.births == births {
				r.changed.Wait()
			}
			r.mu.Unlock()
		default:
			return fmt.Errorf("wait for children: %w", err)
		}
	}
}

// siginfoPID is where struct siginfo of a 64-bit Linux has si_pid: after si_signo, si_errno, si_code and padding.
const siginfoPID = 16

// peek waits until a child has ended and leaves it as it is.
func peek() (int, error) {
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		return 0, err
	}
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(&info), siginfoPID))), nil
}

// collect takes the status of pid. The pid is free for another process from the moment of the wait4 on, hence the lock: Signal
// never sees a claimed pid that is not its process any more.
func (r *Reaper) collect(pid int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var status unix.WaitStatus
	got, err := unix.Wait4(pid, &status, unix.WNOHANG, nil)
	if err != nil || got != pid {
		return // the syscall package takes the child of a failed exec itself
	}
	child := r.children[pid]
	if child == nil {
		child = r.newChild(pid)
		if r.holds > 0 {
			r.unclaimed[pid] = child // in place of an earlier process of that pid, if there was one within the hold
		}
	}
	child.exit = Exit{Status: status, At: time.Now()}
	child.ended = true
	delete(r.children, pid)
	close(child.done)
}

func (r *Reaper) newChild(pid int) *Child {
	return &Child{reaper: r, pid: pid, done: make(chan struct{})}
}

// Hold is the time during which no exit status is thrown away.
type Hold struct {
	reaper *Reaper
	once   sync.Once
}

// Hold begins one. Holds may overlap.
func (r *Reaper) Hold() *Hold {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.holds++
	return &Hold{reaper: r}
}

// Claim makes pid the caller's, whether it runs or has ended since the hold began.
func (h *Hold) Claim(pid int) *Child {
	r := h.reaper
	r.mu.Lock()
	defer r.mu.Unlock()
	child := r.unclaimed[pid]
	delete(r.unclaimed, pid)
	if child == nil {
		child = r.newChild(pid)
	}
	if !child.ended {
		r.children[pid] = child
	}
	r.births++
	r.changed.Broadcast()
	return child
}

// Release ends the hold. It may be called more than once.
func (h *Hold) Release() {
	h.once.Do(func() {
		r := h.reaper
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.holds--; r.holds == 0 {
			clear(r.unclaimed)
		}
	})
}

// Pid is the process's id; after its end it may be another's.
func (c *Child) Pid() int { return c.pid }

// Done is closed when the process has ended.
func (c *Child) Done() <-chan struct{} { return c.done }

// Exit is how it ended; valid once Done is closed.
func (c *Child) Exit() Exit { return c.exit }

// Signal sends a signal, never to another process that has got the pid since. A process that has ended is no error.
func (c *Child) Signal(signal unix.Signal) error { return c.signal(c.pid, signal) }

// SignalGroup is Signal to the process group that the process leads; to the process alone if it leads none.
func (c *Child) SignalGroup(signal unix.Signal) error {
	if group, err := unix.Getpgid(c.pid); err != nil || group != c.pid {
		return c.Signal(signal)
	}
	return c.signal(-c.pid, signal)
}

func (c *Child) signal(target int, signal unix.Signal) error {
	c.reaper.mu.Lock()
	defer c.reaper.mu.Unlock()
	if c.ended {
		return nil
	}
	if err := unix.Kill(target, signal); err != nil && err != unix.ESRCH {
		return fmt.Errorf("signal process %d: %w", target, err)
	}
	return nil
}

// Pidfd opens a descriptor of the process, which stays that process's for ever. The caller closes it.
func (c *Child) Pidfd() (int, error) {
	c.reaper.mu.Lock()
	defer c.reaper.mu.Unlock()
	if c.ended {
		return -1, fmt.Errorf("process %d: %w", c.pid, unix.ESRCH)
	}
	fd, err := unix.PidfdOpen(c.pid, 0)
	if err != nil {
		return -1, fmt.Errorf("process %d: %w", c.pid, err)
	}
	return fd, nil
}
