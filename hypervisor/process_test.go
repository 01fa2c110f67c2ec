package hypervisor

import (
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseStat(t *testing.T) {
	for _, test := range []struct {
		name, stat, state string
		start             uint64
		ok                bool
	}{
		{"plain", "7 (sh) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 1234 99 98", "S", 1234, true},
		{"name like fields", "7 (a) b) (c 1) Z 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 1234", "Z", 1234, true},
		{"short", "7 (sh) S 1 7 7", "", 0, false},
		{"empty", "", "", 0, false},
	} {
		if state, start, err := parseStat(test.stat); state != test.state || start != test.start || (err == nil) != test.ok {
			t.Errorf("%s: got %s, %d, %v", test.name, state, start, err)
		}
	}
}

// TestLives looks at processes that live, have ended, and are other ones than described.
func TestLives(t *testing.T) {
	child := exec.Command("cat")
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	process, err := NewProcess("cat", child.Process.Pid)
	if err != nil || !process.Lives() {
		t.Errorf("%+v, which lives, does not: %v", process, err)
	}
	other := process
	other.StartTime++
	if other.Lives() {
		t.Error("another process with the same pid is taken for it")
	}
	stdin.Close()
	if err := unix.Waitid(unix.P_PID, child.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	if process.Lives() {
		t.Error("a process lives that only waits to be waited for")
	}
	if err := child.Wait(); err != nil {
		t.Fatal(err)
	}
	if process.Lives() {
		t.Error("a process that is gone lives")
	}
}

func TestNewProcess(t *testing.T) {
	self, err := NewProcess("test", os.Getpid())
	if err != nil || self.StartTime == 0 {
		t.Errorf("got %+v, %v", self, err)
	}
	if _, err := NewProcess("none", 1<<30); err == nil {
		t.Error("a process that cannot be")
	}
}
