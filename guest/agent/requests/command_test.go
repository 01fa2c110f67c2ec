package requests

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

// shell is a request to run a script in the machine.
func shell(script string) protocol.VMExecRequest {
	return protocol.VMExecRequest{Command: []string{"sh", "-c", script}}
}

func TestCaptured(t *testing.T) {
	c := newGuest(t).dial()
	for name, test := range map[string]struct {
		request protocol.VMExecRequest
		want    protocol.CompletedResponse
	}{
		"both outputs": {shell("echo out; echo err >&2"), completed(0, "out\n", "err\n")},
		"exit code":    {shell("exit 42"), completed(42, "", "")},
		"signal":       {shell("kill -KILL $$"), completed(128+9, "", "")},
		"no input":     {shell("cat"), completed(0, "", "")},
		"environment": {
			protocol.VMExecRequest{
				Command: []string{"env"}, Env: []protocol.Pair{{Name: "PATH", Value: "/usr/bin:/bin"}, {Name: "A", Value: "B=C"}},
			}, completed(0, "PATH=/usr/bin:/bin\nHOME=/root\nA=B=C\n", ""),
		},
		"binary":        {shell(`printf '\377\000\200'`), completed(0, "\xff\x00\x80", "")},
		"of the dead":   {shell("(sleep 4 &); echo alive"), completed(0, "alive\n", "")},
		"a lot":         {shell("head -c 4000000 /dev/zero | tr '\\0' x"), completed(0, strings.Repeat("x", 4000000), "")},
		"working place": {protocol.VMExecRequest{Command: []string{"pwd"}, Workdir: new("/usr")}, completed(0, "/usr\n", "")},
	} {
		got := c.send(test.request)
		if completed, ok := got.(protocol.CompletedResponse); !ok || completed.ExitCode != test.want.ExitCode ||
			!bytes.Equal(completed.Stdout, test.want.Stdout) || !bytes.Equal(completed.Stderr, test.want.Stderr) {
			t.Errorf("%s: %.300s", name, show(got))
		}
	}
	nowhere := []protocol.Pair{{Name: "PATH", Value: "/nowhere"}}
	if got := c.send(protocol.VMExecRequest{Command: []string{"echo", "from busybox"}, Env: nowhere}); !isCompleted(got, 0, "from busybox\n") {
		t.Errorf("a program that is not found: %s", show(got))
	}
	wantError(t, c.send(protocol.VMExecRequest{Command: []string{"/no/such/program"}}), protocol.CodeSpawnFailed)
	wantError(t, c.send(protocol.VMExecRequest{Command: []string{"true"}, Workdir: new("/no/such/directory")}), protocol.CodeSpawnFailed)
}

func completed(code int32, stdout, stderr string) protocol.CompletedResponse {
	return protocol.CompletedResponse{ExitCode: code, Stdout: []byte(stdout), Stderr: []byte(stderr)}
}

// TestTimeout kills what a command has started, too.
func TestTimeout(t *testing.T) {
	g := newGuest(t)
	c := g.dial()
	file := filepath.Join(t.TempDir(), "pid")
	request := shell("sleep 1000 & echo $! >" + file + "; echo begun; wait")
	request.TimeoutMS = new(uint64(300))
	if got := c.send(request); !isCompleted(got, timedOut, "begun\n") {
		t.Errorf("timeout: %s", show(got))
	}
	g.awaitGone(file)
	request = shell("sleep 1000")
	request.TimeoutMS, request.Interactive = new(uint64(100)), true
	if got, ok := c.send(request).(protocol.StartedResponse); !ok {
		t.Errorf("interactive: %+v", got)
	}
	if got := c.hear(); got != (protocol.ExitedResponse{ExitCode: timedOut}) {
		t.Errorf("timeout of an interactive command: %s", show(got))
	}
}

// awaitGone waits until the process whose id is in a file has ended.
func (g *guest) awaitGone(file string) {
	g.t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		g.t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(text), &pid); err != nil {
		g.t.Fatalf("pid %q: %v", text, err)
	}
	g.await(fmt.Sprintf("process %d has ended", pid), func() bool { return unix.Kill(pid, 0) == unix.ESRCH })
}

// TestOutputBeyondAnAnswer is an error, and the command is killed.
func TestOutputBeyondAnAnswer(t *testing.T) {
	c := newGuest(t).dial()
	got := c.send(shell("cat /dev/zero"))
	wantError(t, got, protocol.CodeExecFailed)
	if got := c.send(shell(fmt.Sprintf("head -c %d /dev/zero", maxCaptured))); !isCompleted(got, 0, string(make([]byte, maxCaptured))) {
		t.Errorf("the most that an answer carries: %.100s", show(got))
	}
}

func TestInteractive(t *testing.T) {
	c := newGuest(t).dial()
	request := shell("read line; echo heard $line; echo bad >&2; cat; exit 3")
	request.Interactive = true
	if got, ok := c.send(request).(protocol.StartedResponse); !ok {
		t.Fatalf("interactive: %+v", got)
	}
	wantError(t, c.ask(ping), protocol.CodeInvalidRequest)
	wantError(t, c.ask(`{"method":"resize","cols":1,"rows":1}`), protocol.CodeInvalidRequest)
	c.say(`{"method":"stdin","data":"aGkK"}`)
	c.say(`{"method":"stdin","data":"bW9yZQ=="}`)
	c.say(`{"method":"stdin","data":""}`)
	stdout, stderr, code := c.listen()
	if stdout != "heard hi\nmore" || stderr != "bad\n" || code != 3 {
		t.Errorf("interactive: %q, %q, %d", stdout, stderr, code)
	}
	if _, ok := c.ask(ping).(protocol.PongResponse); !ok {
		t.Error("the connection does not live")
	}
}

// listen hears an interactive command to its end.
func (c *client) listen() (stdout, stderr string, code int32) {
	c.t.Helper()
	for {
		switch a := c.hear().(type) {
		case protocol.StdoutResponse:
			stdout += string(a.Data)
		case protocol.StderrResponse:
			stderr += string(a.Data)
		case protocol.ExitedResponse:
			return stdout, stderr, a.ExitCode
		default:
			c.t.Fatalf("heard %s", show(a))
		}
	}
}

// TestBothWays has much go in and out at once.
func TestBothWays(t *testing.T) {
	c := newGuest(t).dial()
	request := shell("cat")
	request.Interactive = true
	c.send(request)
	const chunks = 64
	go func() {
		data, err := protocol.AgentRequests.Encode(protocol.StdinRequest{Data: bytes.Repeat([]byte("0123456789abcdef"), 4096)})
		if err != nil {
			t.Error(err)
		}
		for range chunks {
			if err := protocol.WriteMessage(c, data); err != nil {
				t.Error(err)
				return
			}
		}
		if err := protocol.WriteMessage(c, []byte(`{"method":"stdin","data":""}`)); err != nil {
			t.Error(err)
		}
	}()
	stdout, _, code := c.listen()
	if want := strings.Repeat("0123456789abcdef", 4096*chunks); stdout != want || code != 0 {
		t.Errorf("%d bytes came back, %d were sent; exit code %d", len(stdout), len(want), code)
	}
}

func TestTerminal(t *testing.T) {
	c := newGuest(t).dial()
	request := shell("stty size; read line; stty size; tty; cat; echo over")
	request.TTY = true
	c.send(request)
	var seen string
	expect := func(want string) {
		t.Helper()
		for !strings.Contains(seen, want) {
			out, ok := c.hear().(protocol.StdoutResponse)
			if !ok {
				t.Fatalf("want %q, saw %q", want, seen)
			}
			seen += string(out.Data)
		}
	}
	expect("0 0")
	c.say(`{"method":"resize","cols":100,"rows":40}`)
	c.say(`{"method":"stdin","data":"Cg=="}`)
	expect("40 100")
	expect("/dev/pts/")
	c.say(`{"method":"stdin","data":""}`)
	expect("over")
	if got, ok := c.hear().(protocol.ExitedResponse); !ok || got.ExitCode != 0 {
		t.Errorf("terminal: %+v", got)
	}
}

// TestClientGone kills the command of a client that goes away, however much of its input is still to be taken.
func TestClientGone(t *testing.T) {
	g := newGuest(t)
	for name, test := range map[string]struct {
		interactive bool
		input       int
	}{"captured": {}, "interactive": {true, 0}, "interactive with input": {true, 4 << 20}} {
		c := g.dial()
		file := filepath.Join(t.TempDir(), "pid")
		if err := unix.Mkfifo(file+".begun", 0o600); err != nil {
			t.Fatal(err)
		}
		request := shell("echo $$ >" + file + "; echo >" + file + ".begun; exec sleep 1000")
		request.Interactive = test.interactive
		message, err := protocol.AgentRequests.Encode(request)
		if err != nil {
			t.Fatal(err)
		}
		c.say(string(message))
		if _, err := os.ReadFile(file + ".begun"); err != nil {
			t.Fatal(err)
		}
		if test.input > 0 {
			message, err := protocol.AgentRequests.Encode(protocol.StdinRequest{Data: make([]byte, 64<<10)})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
				t.Fatal(err)
			}
			for sent := 0; sent < test.input && err == nil; sent += 64 << 10 {
				err = protocol.WriteMessage(c, message)
			}
			if err == nil {
				t.Errorf("%s: all of the input was taken", name)
			}
		}
		c.Close()
		g.awaitGone(file)
	}
}

// TestBackground goes on when its client is gone.
func TestBackground(t *testing.T) {
	g := newGuest(t)
	c := g.dial()
	file := filepath.Join(t.TempDir(), "done")
	if err := unix.Mkfifo(file, 0o600); err != nil {
		t.Fatal(err)
	}
	request := shell("read line <" + file + "; echo $$ >" + file)
	request.Background = true
	got, ok := c.send(request).(protocol.CompletedResponse)
	if !ok || got.ExitCode != 0 || len(got.Stdout) == 0 {
		t.Fatalf("background: %s", show(got))
	}
	c.Close()
	if err := os.WriteFile(file, []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
	if pid, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(pid)) != string(got.Stdout) {
		t.Errorf("it says that it is process %q, %v; the answer was %q", pid, err, got.Stdout)
	}
}

// TestLeftovers has nothing stay of commands that have ended.
func TestLeftovers(t *testing.T) {
	g := newGuest(t)
	c := g.dial()
	c.send(shell("true"))
	c.send(shell("sleep 0.3 &"))
	g.await("all commands are forgotten", func() bool {
		g.server.Jobs.mu.Lock()
		defer g.server.Jobs.mu.Unlock()
		return len(g.server.Jobs.jobs) == 0 && len(g.server.Jobs.pipes) == 0
	})
}
