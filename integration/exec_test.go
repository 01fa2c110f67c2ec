package integration

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"golang.org/x/sys/unix"
)

func TestExec(t *testing.T) {
	c := begin(t).sleeper("--env", "FRUIT=fig", "--cwd", "/etc")
	result := c.exec(nil, "sh", "-c", "echo $FRUIT; pwd; echo err >&2; exit 9")
	if result.Code != 9 || result.Stdout != "fig\n/etc\n" || result.Stderr != "err\n" {
		t.Errorf("exit code %d, standard output %q, standard error %q", result.Code, result.Stdout, result.Stderr)
	}
	result = c.exec([]string{"--cwd", "/tmp", "--user", "77:88"}, "sh", "-c", "pwd; id -u; id -g")
	if want := "/tmp\n77\n88\n"; result.Stdout != want {
		t.Errorf("with a user and a directory: wrote %q, want %q: %v", result.Stdout, want, result.Err())
	}
}

func TestExecInput(t *testing.T) {
	c := begin(t).sleeper()
	cmd := daemon.CtrCommand(c.ctx, c.execArgs(nil, "head", "-n", "2")...)
	cmd.Stdin = strings.NewReader("one\ntwo\nthree\n")
	output, err := cmd.Output()
	c.must(err)
	if want := "one\ntwo\n"; string(output) != want {
		t.Errorf("wrote %q, want %q", output, want)
	}
}

// TestExecAtOnce runs fifty processes in one container at the same time. Each has its own output and exit code.
func TestExecAtOnce(t *testing.T) {
	c := begin(t).sleeper()
	var group sync.WaitGroup
	for i := range 50 {
		args := c.execArgs(nil, "sh", "-c", fmt.Sprintf("echo I am %d; echo not %d >&2; exit %d", i, i, i+1))
		group.Go(func() {
			result := daemon.Ctr(c.ctx, args...)
			stdout, stderr := fmt.Sprintf("I am %d\n", i), fmt.Sprintf("not %d\n", i)
			if result.Code != i+1 || result.Stdout != stdout || result.Stderr != stderr {
				t.Errorf("process %d: exit code %d, standard output %q, standard error %q",
					i, result.Code, result.Stdout, result.Stderr)
			}
		})
	}
	group.Wait()
}

// TestExecMissingProgram starts a program that is not there. The error names it, and the container goes on.
func TestExecMissingProgram(t *testing.T) {
	c := begin(t).sleeper()
	result := c.exec(nil, "no-such-program")
	if result.Code == 0 || !strings.Contains(result.Stderr, "no-such-program") {
		t.Errorf("exit code %d, want an error that names the program: %q", result.Code, result.Stderr)
	}
	if result := c.exec(nil, "echo", "alive"); result.Stdout != "alive\n" {
		t.Errorf("afterwards the container wrote %q: %v", result.Stdout, result.Err())
	}
}

// TestExecKilled kills a process beside the first one, which goes on.
func TestExecKilled(t *testing.T) {
	for _, test := range []struct {
		signal unix.Signal
		want   uint32
	}{{unix.SIGTERM, 143}, {unix.SIGKILL, 137}, {unix.SIGINT, 130}} {
		t.Run(unix.SignalName(test.signal), func(t *testing.T) {
			c := begin(t).sleeper()
			c.execProcess("victim", "sleep", "1000000")
			_, err := daemon.Tasks.Kill(daemon.Context(c.ctx),
				&tasks.KillRequest{ContainerID: c.id, ExecID: "victim", Signal: uint32(test.signal)})
			c.must(err)
			if got := c.wait("victim"); got != test.want {
				t.Errorf("exit status %d, want %d", got, test.want)
			}
			c.must(c.exec(nil, "true").Err())
		})
	}
}
