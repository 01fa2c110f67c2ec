package reaper

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	runc "github.com/containerd/go-runc"
	"golang.org/x/sys/unix"
)

// started is the reaper of this test process, which inherits the orphans of its children as a PID 1 does.
var started = sync.OnceValue(func() *Reaper {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	r := New()
	go r.Run()
	return r
})

func wait(t *testing.T, c *Child) Exit {
	t.Helper()
	select {
	case <-c.Done():
		return c.Exit()
	case <-time.After(10 * time.Second):
		t.Fatalf("process %d is not reaped", c.Pid())
		return Exit{}
	}
}

// start starts a shell without claiming it.
func start(t *testing.T, script string) int {
	t.Helper()
	command := exec.Command("sh", "-c", script)
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	return command.Process.Pid
}

func TestExitCodes(t *testing.T) {
	r := started()
	for script, want := range map[string]int{"exit 7": 7, "kill -TERM $$": 143, "kill -KILL $$": 137} {
		hold := r.Hold()
		child := hold.Claim(start(t, script))
		hold.Release()
		if exit := wait(t, child); exit.Code() != want || exit.At.IsZero() {
			t.Errorf("%s: code %d at %v, want %d", script, exit.Code(), exit.At, want)
		}
		if err := child.Signal(unix.SIGKILL); err != nil {
			t.Errorf("signal after the end: %v", err)
		}
		if _, err := child.Pidfd(); err == nil {
			t.Error("pidfd after the end")
		}
	}
}

// TestSignalGroup ends a process with what it started, and alone if it leads no group.
func TestSignalGroup(t *testing.T) {
	r := started()
	for _, leads := range []bool{true, false} {
		read, write, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		script := "echo up; exec sleep 1000"
		if leads {
			script = "sh -c '" + script + "' & wait"
		}
		command := exec.Command("sh", "-c", script)
		command.Stdout = write
		command.SysProcAttr = &syscall.SysProcAttr{Setpgid: leads}
		hold := r.Hold()
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		child := hold.Claim(command.Process.Pid)
		hold.Release()
		write.Close()
		lines := bufio.NewReader(read)
		if line, err := lines.ReadString('\n'); line != "up\n" || err != nil {
			t.Fatalf("read %q, %v", line, err)
		}
		if err := child.SignalGroup(unix.SIGKILL); err != nil {
			t.Error(err)
		}
		if exit := wait(t, child); exit.Code() != 137 {
			t.Errorf("leads a group %t: code %d", leads, exit.Code())
		}
		if leads {
			if _, err := lines.ReadByte(); err != io.EOF {
				t.Errorf("what it started goes on: %v", err)
			}
		}
		if err := child.SignalGroup(unix.SIGKILL); err != nil {
			t.Errorf("after the end: %v", err)
		}
		read.Close()
	}
}

func TestClaimAfterTheEnd(t *testing.T) {
	r := started()
	hold := r.Hold()
	defer hold.Release()
	early := start(t, "exit 3")
	// Children are reaped one after the other: when a later one's end is known, so is the earlier one's.
	late := hold.Claim(start(t, "while kill -0 "+strconv.Itoa(early)+" 2>/dev/null; do :; done"))
	wait(t, late)
	if exit := wait(t, hold.Claim(early)); exit.Code() != 3 {
		t.Errorf("code %d, want 3", exit.Code())
	}
}

func TestOrphan(t *testing.T) {
	r := started()
	hold := r.Hold()
	defer hold.Release()
	monitor := r.Monitor()
	// Like an OCI runtime that starts a process, says its pid and goes. The orphan lives until the pipe is closed.
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	var out bytes.Buffer
	command := exec.Command("sh", "-c", "(read line <&3; exit 9) >/dev/null & echo $!")
	command.Stdout, command.ExtraFiles = &out, []*os.File{read}
	exits, err := monitor.Start(command)
	if err != nil {
		t.Fatal(err)
	}
	if status, err := monitor.Wait(command, exits); status != 0 || err != nil {
		t.Fatalf("status %d, %v", status, err)
	}
	write.Close()
	pid, err := strconv.Atoi(strings.TrimSpace(out.String()))
	if err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, hold.Claim(pid)); exit.Code() != 9 {
		t.Errorf("code %d, want 9", exit.Code())
	}
}

func TestNothingIsKeptOutsideOfHolds(t *testing.T) {
	r := started()
	hold := r.Hold()
	start(t, "exit 0")
	other := hold.Claim(start(t, "exit 0"))
	wait(t, other)
	hold.Release()
	hold.Release()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.unclaimed) != 0 || r.holds != 0 {
		t.Errorf("%d kept, %d holds", len(r.unclaimed), r.holds)
	}
}

func TestMonitor(t *testing.T) {
	runc.Monitor = started().Monitor()
	for name, run := range map[string]func(*exec.Cmd) (chan runc.Exit, error){
		"start": runc.Monitor.Start, "start locked": runc.Monitor.StartLocked,
	} {
		t.Run(name, func(t *testing.T) {
			command := exec.Command("sh", "-c", "exit 4")
			exits, err := run(command)
			if err != nil {
				t.Fatal(err)
			}
			if status, err := runc.Monitor.Wait(command, exits); status != 4 || err != nil {
				t.Errorf("status %d, %v", status, err)
			}
			if _, err := run(exec.Command("/no/such/program")); err == nil {
				t.Error("started a program that does not exist")
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	command := exec.CommandContext(ctx, "sleep", "1000")
	exits, err := runc.Monitor.Start(command)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if status, _ := runc.Monitor.Wait(command, exits); status != 137 {
		t.Errorf("status of a cancelled command %d, want 137", status)
	}
}

func TestManyAtOnce(t *testing.T) {
	r := started()
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			hold := r.Hold()
			defer hold.Release()
			command := exec.Command("sh", "-c", "exit "+strconv.Itoa(i))
			if err := command.Start(); err != nil {
				t.Error(err)
				return
			}
			child := hold.Claim(command.Process.Pid)
			<-child.Done()
			if code := child.Exit().Code(); code != i {
				t.Errorf("code %d, want %d", code, i)
			}
		})
	}
	wg.Wait()
}
