package container

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// identity has the process take on its directory, umask, limits, groups, user and capabilities, from the first that needs privilege to the
// last that gives it up. Its files and directories are found with all privileges, as with other OCI runtimes.
func (w *way) identity() {
	p, process := w.plan, w.process
	umask := uint32(0o022)
	if process.User.Umask != nil {
		umask = *process.User.Umask
	}
	p.Call("umask", unix.SYS_UMASK, uintptr(umask))
	p.Call("working directory "+process.Cwd, unix.SYS_CHDIR, p.Text(process.Cwd))
	w.scheduled.apply(p)
	// A session keyring of its own, as crun gives one to a container.
	p.Call("make a session keyring", unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0)
	for _, limit := range process.Rlimits {
		value := binary.NativeEndian.AppendUint64(nil, limit.Soft)
		value = binary.NativeEndian.AppendUint64(value, limit.Hard)
		p.Call("set "+limit.Type, unix.SYS_PRLIMIT64, 0, uintptr(rlimits[limit.Type]), p.Bytes(value), 0)
	}
	var groups []byte
	for _, group := range process.User.AdditionalGids {
		groups = binary.NativeEndian.AppendUint32(groups, group)
	}
	p.Call("set groups", unix.SYS_SETGROUPS, uintptr(len(process.User.AdditionalGids)), p.Bytes(groups))
	if !process.NoNewPrivileges { // else it takes no privilege, and is the last to be done
		w.filterCalls()
	}
	sets := capabilitySetsOf(process.Capabilities)
	sets.bound(p)
	uid, gid := uintptr(process.User.UID), uintptr(process.User.GID)
	p.Call("keep capabilities", unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1, 0, 0, 0)
	p.Call("set group", unix.SYS_SETRESGID, gid, gid, gid)
	p.Call("set user", unix.SYS_SETRESUID, uid, uid, uid)
	sets.set(p)
	if process.NoNewPrivileges {
		p.Call("give up new privileges", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
}

// filterCalls has the process's system calls filtered from then on, if the container has a filter.
func (w *way) filterCalls() {
	made := w.container.native
	if w.first != nil {
		made = w.first.parts
	}
	if made == nil || made.filter == nil {
		return
	}
	var program []byte
	for _, i := range made.filter.Program { // struct sock_filter
		program = binary.NativeEndian.AppendUint16(program, i.Code)
		program = append(program, i.Jt, i.Jf)
		program = binary.NativeEndian.AppendUint32(program, i.K)
	}
	// struct sock_fprog of a 64-bit machine.
	header := binary.NativeEndian.AppendUint64(nil, uint64(len(made.filter.Program)))
	header = binary.NativeEndian.AppendUint64(header, uint64(w.plan.Bytes(program)))
	w.plan.Call("filter system calls", unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, made.filter.Flags, w.plan.Bytes(header))
}

// session makes the process the leader of a session, whose terminal is its own.
func (w *way) session() {
	w.plan.Call("begin a session", unix.SYS_SETSID)
	if w.process.Terminal {
		w.plan.Call("take the terminal", unix.SYS_IOCTL, 0, unix.TIOCSCTTY, 0)
	}
}

// setScore sets the out-of-memory score of a process. proc is a directory with the processes by their ids.
func setScore(proc *os.File, pid int, process *specs.Process) error {
	if process.OOMScoreAdj == nil {
		return nil
	}
	fd, err := unix.Openat(int(proc.Fd()), fmt.Sprintf("%d/oom_score_adj", pid), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		file := os.NewFile(uintptr(fd), "oom_score_adj")
		defer file.Close()
		_, err = file.WriteString(strconv.Itoa(*process.OOMScoreAdj))
	}
	if err != nil {
		return fmt.Errorf("set the out-of-memory score: %w", err)
	}
	return nil
}
