package integration

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/limpet-run/limpet/integration/harness"
)

// shell is a shell on a terminal.
type shell struct {
	*scope
	*harness.Terminal
}

const (
	columns, rows = 80, 24
	prompt        = "PROMPT> "

	// terminalTimeout is how long the answer to a typed line, or the first prompt, may take.
	terminalTimeout = 60 * time.Second
)

// terminal starts a command on a terminal.
func (s *scope) terminal(cmd *exec.Cmd) *harness.Terminal {
	s.Helper()
	terminal, err := harness.StartTerminal(cmd, columns, rows)
	s.must(err)
	s.Cleanup(func() { terminal.Close() })
	return terminal
}

// shell starts a shell in a container of its own, ctr run -t, and waits for its prompt.
func (s *scope) shell() shell {
	s.Helper()
	spec := s.spec([]string{"--rm", "--tty", "--env", "PS1=" + prompt}, "sh")
	sh := shell{s, s.terminal(daemon.CtrCommand(s.ctx, daemon.Args("run", spec)...))}
	sh.expect(prompt)
	return sh
}

func (sh shell) expect(pattern string) []string {
	sh.Helper()
	ctx, cancel := context.WithTimeout(sh.ctx, terminalTimeout)
	defer cancel()
	groups, err := sh.Expect(ctx, pattern)
	sh.must(err)
	return groups
}

// command types a line, waits until its output matches the pattern, and then for the prompt.
func (sh shell) command(line, pattern string) []string {
	sh.Helper()
	sh.must(sh.Type(line + "\n"))
	sh.expect("\n") // the echo of the line
	groups := sh.expect(pattern)
	sh.expect(prompt)
	return groups
}

func (sh shell) exit(code string, want int) {
	sh.Helper()
	sh.must(sh.Type("exit " + code + "\n"))
	sh.wantExit(want)
}

func (sh shell) wantExit(want int) {
	sh.Helper()
	if got := sh.Wait(); got != want {
		sh.Errorf("the shell exited with %d, want %d; it showed %q", got, want, sh.Output())
	}
}

func TestTerminalShell(t *testing.T) {
	sh := begin(t).shell()
	if strings.Contains(sh.Output(), "job control") {
		t.Errorf("the shell complains of its terminal: %q", sh.Output())
	}
	sh.command("test -t 0 && test -t 1 && test -t 2 && echo a''ll", `all\s`)
	sh.command("echo to''err >&2", `toerr\s`)
	sh.exit("5", 5)
}

func TestTerminalResize(t *testing.T) {
	sh := begin(t).shell()
	awaitSize(sh, "24 80")
	sh.must(sh.Resize(132, 43))
	awaitSize(sh, "43 132")
	sh.must(sh.Resize(101, 37))
	awaitSize(sh, "37 101")
	sh.exit("", 0)
}

// awaitSize waits until the terminal has a size. The new size passes through ctr and containerd on its way, nothing tells when it
// has arrived, and a shell that waits for input runs no trap before it gets a line; so this asks again until it is there.
func awaitSize(sh shell, want string) {
	sh.Helper()
	for {
		if got := sh.command("stty size", `(?m)^(\d+ \d+)\r*\n`)[1]; got == want {
			return
		}
		if sh.ctx.Err() != nil {
			sh.Fatalf("the terminal never was %s: %q", want, sh.Output())
		}
	}
}

// TestTerminalInterrupt types Ctrl-C, which is for the foreground process only.
func TestTerminalInterrupt(t *testing.T) {
	sh := begin(t).shell()
	sh.command("sleep 1000000 &", "")
	sh.must(sh.Type("sh -c 'echo st\"\"arted; exec sleep 1000000'\n"))
	sh.expect(`started\s`)
	sh.must(sh.Type("\x03"))
	sh.expect(prompt)
	sh.command("echo status $?", `status 130\s`)
	sh.command("jobs", `\[1\]\+? +Running +sleep 1000000`)
	sh.exit("", 0)
}

// TestTerminalJobControl stops, continues and interrupts a job. The job says when it is continued: a shell names a job that it
// brings back before it gives it the terminal, so that a Ctrl-C at once could reach the shell alone.
func TestTerminalJobControl(t *testing.T) {
	sh := begin(t).shell()
	sh.must(sh.Type("sh -c 'trap \"echo con\"\"tinued\" CONT; echo st\"\"arted; while :; do sleep 0.1; done'\n"))
	sh.expect(`started\s`)
	sh.must(sh.Type("\x1a")) // Ctrl-Z
	sh.expect(`Stopped`)
	sh.expect(prompt)
	sh.command("jobs", `\[1\]\+ +Stopped`)
	sh.must(sh.Type("bg\n"))
	sh.expect(`continued\s`)
	sh.command("jobs", `\[1\]\+? +Running`)
	sh.must(sh.Type("fg\n"))
	sh.expect(`continued\s`)
	sh.must(sh.Type("\x03"))
	sh.expect(prompt)
	sh.command("jobs; echo no''ne", `^none`)
	sh.exit("", 0)
}

// TestTerminalExec has two terminals in one container.
func TestTerminalExec(t *testing.T) {
	c := begin(t).sleeper()
	args := c.execArgs([]string{"--tty"}, "sh", "-c", "tty; read line; echo got $line; exit 4")
	sh := shell{c.scope, c.terminal(daemon.CtrCommand(c.ctx, args...))}
	sh.expect(`/dev/pts/\d+\s`)
	sh.must(sh.Type("a line\n"))
	sh.expect(`got a line\s`)
	sh.wantExit(4)
}
