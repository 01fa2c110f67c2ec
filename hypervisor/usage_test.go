package hypervisor

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestUsage(t *testing.T) {
	self, err := NewProcess("self", os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	usage, err := self.Usage()
	if err != nil || usage.Memory < 1<<20 || usage.Memory > 1<<30 || usage.CPU < 0 || usage.CPU > time.Hour {
		t.Errorf("got %+v, %v", usage, err)
	}
	self.StartTime++
	if usage, err := self.Usage(); err == nil {
		t.Errorf("of another process: %+v", usage)
	}
}

// TestUsageOfGroup has a shell of a group of its own hold a machine's memory, of which it uses nothing, and fork.
func TestUsageOfGroup(t *testing.T) {
	fd, err := unix.MemfdCreate(MemoryName, 0)
	if err != nil {
		t.Fatal(err)
	}
	memory := os.NewFile(uintptr(fd), MemoryName)
	defer memory.Close()
	if _, err := memory.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	// What it forks says itself that it is there, executes nothing, and stays: a background command's input is /dev/null, so it reads from
	// a copy of the shell's own.
	shell := exec.Command("sh", "-c", "exec 4<&0; { echo; read line <&4; } & wait")
	stdout, err := shell.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	shell.ExtraFiles = []*os.File{memory}
	shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if _, err := shell.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = unix.Kill(-shell.Process.Pid, unix.SIGKILL)
		_ = shell.Wait()
	}()
	if _, err := stdout.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	process, err := NewProcess("shell", shell.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	usage, err := process.Usage()
	if err != nil || usage.Taken != 1<<20 || usage.Mapped != 0 {
		t.Errorf("got %+v, %v", usage, err)
	}
	if pids := forked(process.PID, process.PID); len(pids) != 1 {
		t.Errorf("it has forked %v", pids)
	}
	if alone, err := usageOf(process.PID); err != nil || alone.Memory >= usage.Memory {
		t.Errorf("alone it has %d bytes, with what it has forked %d, %v", alone.Memory, usage.Memory, err)
	}
}

func TestParsePSS(t *testing.T) {
	const mapping = "00400000-00ab5000 rw-p 00000000 fe:00 12 /usr/bin/x y\nSize:   900 kB\nPss:      1234 kB\nPss_Dirty: 1 kB\nVmFlags: rd wr\n"
	const memory = "7f0000000000-7f0010000000 rw-s 00000000 00:01 5      /memfd:limpet-memory (deleted)\nRss:   9 kB\nPss:   8 kB\n"
	for _, test := range []struct {
		text         string
		want, memory uint64
		ok           bool
	}{
		{mapping + memory + mapping, 2476 << 10, 8 << 10, true},
		{mapping, 1234 << 10, 0, true},
		{"Rss: 9 kB\n", 0, 0, false},
		{"Pss: many kB\n", 0, 0, false},
		{"", 0, 0, false},
	} {
		if got, memory, err := parsePSS(strings.NewReader(test.text)); got != test.want || memory != test.memory || (err == nil) != test.ok {
			t.Errorf("%q: got %d, %d, %v", test.text, got, memory, err)
		}
	}
}

func TestParseCPU(t *testing.T) {
	for _, test := range []struct {
		stat string
		want time.Duration
		ok   bool
	}{
		{"7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 7 8 20", 2 * time.Second, true},
		{"7 (sh) S 1 7 7", 0, false},
		{"7 (sh) S 1 7 7 0 -1 4194560 1 2 3 4 x 50 7 8 20", 0, false},
	} {
		if got, err := parseCPU(test.stat); test.ok && got != test.want || (err == nil) != test.ok {
			t.Errorf("%q: got %s, %v", test.stat, got, err)
		}
	}
}
