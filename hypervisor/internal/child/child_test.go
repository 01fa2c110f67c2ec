package child

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/limpet-run/limpet/hypervisor"
)

// orphanVariable makes this test's program one that starts a child and then waits to be killed.
const orphanVariable = "LIMPET_TEST_ORPHAN"

func TestMain(m *testing.M) {
	if os.Getenv(orphanVariable) == "" {
		os.Exit(m.Run())
	}
	command := exec.Command("sleep", "1000")
	command.Stdout = os.Stdout // as a sign of life
	if _, err := Start("orphan", command, hypervisor.Cgroup{}); err != nil {
		os.Exit(1)
	}
	fmt.Println("started")
	select {}
}

// TestDeathOfTheParent kills a process and sees its child end as well: it would keep the pipe open.
func TestDeathOfTheParent(t *testing.T) {
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), orphanVariable+"=1")
	output, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(output)
	if !lines.Scan() || lines.Text() != "started" {
		t.Errorf("the parent says %q", lines.Text())
	}
	if err := parent.Process.Kill(); err != nil {
		t.Error(err)
	}
	if lines.Scan() {
		t.Errorf("the child says %q", lines.Text())
	}
	_ = parent.Wait() // killed
}

func TestEnd(t *testing.T) {
	for _, test := range []struct {
		name, script string
		explained    []string
	}{
		{"failure", "echo one >&2; echo two >&2; exit 3", []string{"it broke", "failure ended: exit status 3", "failure said: one\ntwo"}},
		{"success", "exit 0", []string{"it broke", "success ended: exit status 0"}},
	} {
		c, err := Start(test.name, exec.Command("sh", "-c", test.script), hypervisor.Cgroup{})
		if err != nil {
			t.Fatal(err)
		}
		<-c.Done()
		explained := c.Explain(errors.New("it broke"))
		for _, part := range test.explained {
			if !strings.Contains(explained.Error(), part) {
				t.Errorf("%s: %q lacks %q", test.name, explained, part)
			}
		}
		if c.Explain(nil) != nil {
			t.Errorf("%s: explains what did not happen", test.name)
		}
		c.Kill() // nobody
	}
}

// TestKill ends a program with what it forked: the pipe of its error output would stay open otherwise.
func TestKill(t *testing.T) {
	c, err := Start("sleepers", exec.Command("sh", "-c", "sleep 1000 & sleep 1000"), hypervisor.Cgroup{})
	if err != nil {
		t.Fatal(err)
	}
	now, err := hypervisor.NewProcess("sleepers", c.Process().PID)
	if err != nil || now != c.Process() {
		t.Errorf("process: %+v, %v", c.Process(), err)
	}
	c.Kill()
	<-c.Done()
	if c.Err() == nil || errors.Is(c.Err(), exec.ErrWaitDelay) {
		t.Errorf("ended: %v", c.Err())
	}
}

func TestStartError(t *testing.T) {
	if _, err := Start("nothing", exec.Command("/nonexistent"), hypervisor.Cgroup{}); err == nil ||
		!strings.Contains(err.Error(), "start nothing") {
		t.Errorf("got %v", err)
	}
}

func TestTail(t *testing.T) {
	for _, test := range []struct {
		name   string
		writes []string
		want   string
	}{
		{"empty", nil, ""},
		{"less", []string{"ab", "c"}, "abc"},
		{"exactly", []string{"abcd", "efgh"}, "abcdefgh"},
		{"more", []string{"abcd", "efgh", "ij"}, "cdefghij"},
		{"around twice", []string{"abcdefgh", "ijklm", "nopqr"}, "klmnopqr"},
		{"much at once", []string{"ab", "0123456789abcdef"}, "89abcdef"},
		{"control characters", []string{"a\x1b[2J\r\n\t"}, "a[2J\n\t"},
		{"half a rune", []string{"\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9a"}, "\ufffd\u00e9\u00e9\u00e9a"},
	} {
		tail := NewTail(8)
		for _, write := range test.writes {
			if n, err := tail.Write([]byte(write)); n != len(write) || err != nil {
				t.Errorf("%s: wrote %d, %v", test.name, n, err)
			}
		}
		if got := tail.String(); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

// TestSince reads a text that grows, and of which the beginning is lost.
func TestSince(t *testing.T) {
	tail := NewTail(8)
	read := func(offset int64, want string, wantEnd int64) <-chan struct{} {
		t.Helper()
		text, end, more := tail.Since(offset)
		if text != want || end != wantEnd {
			t.Errorf("since %d: %q up to %d, want %q up to %d", offset, text, end, want, wantEnd)
		}
		return more
	}
	first := read(0, "", 0)
	_, _ = tail.Write([]byte("abc"))
	<-first
	second := read(0, "abc", 3)
	read(2, "c", 3)
	read(3, "", 3)
	select {
	case <-second:
		t.Error("there is more of what has not grown")
	default:
	}
	_, _ = tail.Write([]byte("defghijkl"))
	<-second
	read(3, "efghijkl", 12)
	read(5, "fghijkl", 12)
	read(12, "", 12)
	read(100, "", 12)
}

func TestLastLines(t *testing.T) {
	tail := NewTail(100)
	_, _ = tail.Write([]byte("one\n\n two \nthree"))
	for n, want := range map[int]string{1: "three", 2: "two\nthree", 9: "one\ntwo\nthree"} {
		if got := tail.LastLines(n); got != want {
			t.Errorf("%d: got %q", n, got)
		}
	}
}
