package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a process of this host that belongs to a run.
type Process struct {
	PID     int
	Cmdline string // its arguments, separated by spaces
	Exe     string // the path of its program; empty for one that is ending
}

func (p Process) String() string { return fmt.Sprintf("%d (%s)", p.PID, p.Cmdline) }

// Program is the name of the process's program.
func (p Process) Program() string { return filepath.Base(p.Exe) }

// IsShim reports whether the process serves containerd, as its arguments tell, and is not another role of the shim's program.
func (p Process) IsShim() bool { return strings.Contains(p.Cmdline, " -namespace ") }

// Processes lists the processes of the run: those whose arguments, environment, program, working or root directory mention its
// directory. Containers' own processes have none of these; their ends are what makes shim and container go.
func (d *Daemon) Processes() ([]Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var processes []Process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		dir := filepath.Join("/proc", entry.Name())
		// Whatever cannot be read is of a process that has ended meanwhile.
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		environ, _ := os.ReadFile(filepath.Join(dir, "environ"))
		exe, _ := os.Readlink(filepath.Join(dir, "exe"))
		root, _ := os.Readlink(filepath.Join(dir, "root"))
		cwd, _ := os.Readlink(filepath.Join(dir, "cwd"))
		text := strings.Join([]string{string(cmdline), string(environ), exe, root, cwd}, "\x00")
		if mentions(text, d.Dir) {
			args := string(bytes.TrimSpace(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
			processes = append(processes, Process{PID: pid, Cmdline: args, Exe: exe})
		}
	}
	return processes, nil
}

// mentions reports whether text has dir as a whole path or as the beginning of one.
func mentions(text, dir string) bool {
	for {
		i := strings.Index(text, dir)
		if i < 0 {
			return false
		}
		text = text[i+len(dir):]
		if text == "" || !isNameByte(text[0]) {
			return true
		}
	}
}

func isNameByte(b byte) bool {
	return b >= '0' && b <= '9' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z'
}

// FindProcess returns the only process of the run that keep accepts.
func (d *Daemon) FindProcess(keep func(Process) bool) (Process, error) {
	processes, err := d.Processes()
	if err != nil {
		return Process{}, err
	}
	var found []Process
	for _, process := range processes {
		if keep(process) {
			found = append(found, process)
		}
	}
	if len(found) != 1 {
		return Process{}, fmt.Errorf("want one such process of the run, found %v among %v", found, processes)
	}
	return found[0], nil
}

// WaitGone waits until a process has ended.
func (p Process) WaitGone(ctx context.Context) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch process %s: %w", p, err)
	}
	defer unix.Close(fd)
	timeout := -1
	if deadline, ok := ctx.Deadline(); ok {
		timeout = int(max(0, time.Until(deadline)).Milliseconds())
	}
	for {
		// A pidfd is readable once its process has ended.
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, timeout)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("watch process %s: %w", p, err)
		case n == 0:
			return fmt.Errorf("process %s has not ended: %w", p, context.DeadlineExceeded)
		default:
			return nil
		}
	}
}
