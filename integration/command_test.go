package integration

import (
	"bufio"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	limpet "github.com/limpet-run/limpet/runtime"
)

// limpetCommand is a command of limpet that goes on until it is interrupted.
type limpetCommand struct {
	*scope
	*exec.Cmd
	lines *bufio.Reader // of its output
}

// startLimpet starts a command of limpet.
func (s *scope) startLimpet(command string, args ...string) limpetCommand {
	s.Helper()
	cmd := s.limpetCmd(command, args...)
	stdout, err := cmd.StdoutPipe()
	s.must(err)
	cmd.Stderr = s.Output()
	s.must(cmd.Start())
	s.Cleanup(func() { cmd.Process.Kill() })
	return limpetCommand{s, cmd, bufio.NewReader(stdout)}
}

// line reads the next line of its output.
func (c limpetCommand) line() string {
	c.Helper()
	line, err := c.lines.ReadString('\n')
	c.must(err)
	return strings.TrimSuffix(line, "\n")
}

// interrupt presses Ctrl-C and wants it to end well.
func (c limpetCommand) interrupt() {
	c.Helper()
	c.must(c.Process.Signal(os.Interrupt))
	c.wantExit(0)
}

func (c limpetCommand) wantExit(code int) {
	c.Helper()
	if _, err := io.Copy(io.Discard, c.lines); err != nil {
		c.Error(err)
	}
	_ = c.Wait() // the state tells
	if got := c.ProcessState.ExitCode(); got != code {
		c.Errorf("%s: exit status %d, want %d", c.Args[1], got, code)
	}
}

// TestConsole reads the guest's console while the guest writes to it.
func TestConsole(t *testing.T) {
	s := limpetOnly(t)
	c := s.sleeper("--privileged")
	console := s.startLimpet("console", c.id)
	for _, text := range []string{"first", "second"} { // the later surely comes while it is read
		s.must(c.exec(nil, "sh", "-c", "echo '<0>limpet: "+text+" \x1b[31m' >/dev/kmsg").Err())
		for line := ""; !strings.Contains(line, "limpet: "+text+" "); {
			line = console.line()
			if strings.ContainsAny(line, "\x1b\r") {
				t.Errorf("the console speaks to the terminal: %q", line)
			}
		}
	}
	console.interrupt()
	until := s.startLimpet("console", c.id)
	until.line()
	s.must(daemon.RemoveAll(s.ctx))
	until.wantExit(0)
}

// TestForwardCommand gets a page of a sandbox without a network, over ports of the host, until the sandbox ends.
func TestForwardCommand(t *testing.T) {
	s := limpetOnly(t)
	c := s.sleeper()
	localhost{container: c}.serve(80, `mkdir /www && head -c 10000000 /dev/zero >/www/zeros && httpd -f -p 80 -h /www`)
	forward := s.startLimpet("forward", c.id, "0:80", "0:81")
	address, port, _ := strings.Cut(forward.line(), " -> ")
	nobody, other, _ := strings.Cut(forward.line(), " -> ")
	if port != "80" || other != "81" {
		t.Fatalf("it forwards %s and %s", port, other)
	}
	for range 2 {
		response, err := http.Get("http://" + address + "/zeros")
		s.must(err)
		size, err := io.Copy(io.Discard, response.Body)
		if size != 10000000 || err != nil || response.StatusCode != http.StatusOK {
			t.Errorf("got %d bytes, %s, %v", size, response.Status, err)
		}
		response.Body.Close()
	}
	if _, err := http.Get("http://" + nobody); err == nil {
		t.Error("somebody answers at a port at which nobody listens")
	}
	forward.interrupt()
	if _, err := http.Get("http://" + address); err == nil {
		t.Error("the port is forwarded after Ctrl-C")
	}

	_, taken, _ := strings.Cut(address, ":")
	again := s.startLimpet("forward", c.id, taken+":80")
	if line := again.line(); line != address+" -> 80" {
		t.Errorf("it forwards %s", line)
	}
	failed := s.limpet("forward", c.id, taken+":80")
	if failed.Code != 1 {
		t.Errorf("exit status %d", failed.Code)
	}
	wantError(t, failed.Stderr, taken, "address already in use")
	s.must(daemon.RemoveAll(s.ctx))
	again.wantExit(1) // its sandbox has ended
}

// TestRmOrphaned removes what is left of a sandbox whose shim was killed while containerd was not there.
func TestRmOrphaned(t *testing.T) {
	s := limpetOnly(t)
	c := s.sleeper()
	refused := s.limpet("rm", c.id)
	if refused.Code != 1 {
		t.Errorf("exit status %d for a sandbox that containerd holds", refused.Code)
	}
	wantError(t, refused.Stderr, c.id, "ctr --namespace "+daemon.Namespace, "--force")
	var info limpet.SandboxInfo
	s.limpetJSON(&info, "inspect", c.id)
	s.must(daemon.Kill())
	s.kill9(shim)
	result := s.limpet("ps")
	s.must(result.Err())
	s.wantRow(result.Stdout, c.id, "- orphaned")
	if failed := s.limpet("console", c.id); failed.Code != 1 {
		t.Errorf("exit status %d", failed.Code)
	} else {
		wantError(t, failed.Stderr, "orphaned", "limpet rm "+c.id)
	}
	removed := s.limpet("rm", c.id)
	s.must(removed.Err())
	if removed.Stdout != c.id+"\n" {
		t.Errorf("it says %q", removed.Stdout)
	}
	if _, err := os.Stat(info.Dir); err == nil {
		t.Errorf("%s is left", info.Dir)
	}
	for _, process := range info.Machine {
		if process.Lives() {
			t.Errorf("%+v lives", process)
		}
	}
	s.must(daemon.Restart(s.ctx))
	if failed := s.limpet("rm", c.id); failed.Code != 1 {
		t.Errorf("exit status %d for a sandbox that is gone", failed.Code)
	}
}

// TestRmForced kills a sandbox that containerd holds, which takes it for a crash.
func TestRmForced(t *testing.T) {
	s := limpetOnly(t)
	recorder := s.record()
	c := s.sleeper()
	removed := s.limpet("rm", "--force", c.id)
	s.must(removed.Err())
	s.await(recorder, c.id, "exit", "delete")
	result := s.limpet("ps")
	s.must(result.Err())
	if strings.Contains(result.Stdout, c.id) {
		t.Errorf("it is listed: %s", result.Stdout)
	}
}
