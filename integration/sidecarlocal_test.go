package integration

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/integration/harness"
)

// sidecarServer starts a `limpet sidecar start` in a session of its own, waits until it listens, and has it end with the test.
func (s *scope) sidecarServer() (server *exec.Cmd, socket string) {
	s.Helper()
	socket = filepath.Join(s.TempDir(), "deeper", "socket")
	server = exec.Command(daemon.Build.Path("bin/limpet"), "sidecar", "start", "--parents", socket)
	server.Dir = s.TempDir()
	server.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	log, err := server.StderrPipe()
	s.must(err)
	s.must(server.Start())
	s.Cleanup(func() {
		_ = server.Process.Signal(unix.SIGTERM) // it may have ended
		_ = server.Wait()
	})
	lines := bufio.NewReader(log)
	line, err := lines.ReadString('\n')
	if err != nil || !strings.Contains(line, socket) {
		s.Fatalf("the server says %q, %v", line, err)
	}
	go func() { _, _ = io.Copy(io.Discard, lines) }()
	return server, socket
}

// piped has what the command writes come by a pipe, whose end tells that nobody is left who could write.
func (s *scope) piped(cmd *exec.Cmd) *bufio.Reader {
	s.Helper()
	read, write, err := os.Pipe()
	s.must(err)
	cmd.Stdout = write
	s.must(cmd.Start())
	s.must(write.Close())
	s.Cleanup(func() { read.Close() })
	s.must(read.SetReadDeadline(deadlineOf(s.ctx)))
	return bufio.NewReader(read)
}

func (s *scope) wantNext(lines *bufio.Reader, want string) {
	s.Helper()
	if line, err := lines.ReadString('\n'); line != want+"\n" || err != nil {
		s.Fatalf("read %q, %v; want %q", line, err, want)
	}
}

func (s *scope) wantEnd(lines *bufio.Reader) {
	s.Helper()
	if rest, err := io.ReadAll(lines); len(rest) > 0 || err != nil {
		s.Errorf("read %q, %v; want the end", rest, err)
	}
}

// family is a command that has a child of its own, which holds its output.
const family = "sh -c 'echo started; exec sleep 1000000' & wait"

// TestSidecar runs commands on this machine: what they write and how they end.
func TestSidecar(t *testing.T) {
	s := limpetOnly(t)
	server, socket := s.sidecarServer()
	for _, test := range []struct {
		flags   []string
		command []string
		code    int
		stdout  string
		stderr  string // what is in it
	}{
		{nil, []string{"sh", "-c", "pwd; echo err >&2; exit 9"}, 9, server.Dir + "\n", "err\n"},
		{[]string{"-w", "/etc", "-e", "FRUIT=fig, date", "-e", "NUT="}, []string{"sh", "-c", "pwd; echo $FRUIT$NUT"}, 0, "/etc\nfig, date\n", ""},
		{[]string{"--setuid", "77", "--setgid", "88"}, []string{"sh", "-c", "id -u; id -g"}, 0, "77\n88\n", ""},
		{[]string{"--setsid"}, []string{"sh", "-c", "set -- $(cat /proc/$$/stat); test $1 = $6 && echo leads"}, 0, "leads\n", ""},
		{nil, []string{"help"}, 127, "", "not found"},
		{nil, []string{"sh", "-c", "kill -TERM $$"}, 143, "", ""},
		{nil, []string{"/etc/passwd"}, 126, "", "permission denied"},
		{[]string{"-w", "/nowhere"}, []string{"true"}, 127, "", "/nowhere"},
		{[]string{"--deathsig", "NONE"}, []string{"true"}, 2, "", "NONE"},
		{[]string{"-e", "novalue"}, []string{"true"}, 2, "", "novalue"},
	} {
		t.Run(strings.Join(append(test.flags, test.command...), " "), func(t *testing.T) {
			result := harness.Run(s.sidecar(socket, test.flags, test.command...))
			if result.Code != test.code || result.Stdout != test.stdout || !strings.Contains(result.Stderr, test.stderr) {
				t.Errorf("exit code %d, standard output %q, standard error %q", result.Code, result.Stdout, result.Stderr)
			}
		})
	}
	if result := harness.Run(s.sidecar(socket+"x", nil, "true")); result.Code != 125 || !strings.Contains(result.Stderr, socket+"x") {
		t.Errorf("without a server: exit code %d, %q", result.Code, result.Stderr)
	}
	stop := exec.CommandContext(s.ctx, daemon.Build.Path("bin/limpet"), "sidecar", "stop", socket)
	s.must(harness.Run(stop).Err())
	if err := server.Wait(); err != nil {
		t.Errorf("the server, when it is stopped: %v", err)
	}
}

// TestSidecarScript has a script with the name of a program that is elsewhere, as the sidecar's document has it.
func TestSidecarScript(t *testing.T) {
	s := limpetOnly(t)
	_, socket := s.sidecarServer()
	dir := s.TempDir()
	script := strings.NewReplacer("/usr/local/bin/limpet", daemon.Build.Path("bin/limpet"), "/shared/socket", socket).Replace(toolScript)
	s.must(os.WriteFile(filepath.Join(dir, "tr"), []byte(script), 0o755))
	cmd := exec.CommandContext(s.ctx, "sh", "-c", "echo hello | tr a-z A-Z; cd /etc && ./passwd 2>/dev/null; echo $?")
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
	if result := harness.Run(cmd); result.Stdout != "HELLO\n126\n" {
		t.Errorf("wrote %q: %v", result.Stdout, result.Err())
	}
}

// TestSidecarSignals sends signals to the client: the command gets them.
func TestSidecarSignals(t *testing.T) {
	s := limpetOnly(t)
	_, socket := s.sidecarServer()
	for _, signal := range []unix.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGTERM, unix.SIGWINCH, unix.SIGPIPE} {
		t.Run(unix.SignalName(signal), func(t *testing.T) {
			name := strings.TrimPrefix(unix.SignalName(signal), "SIG")
			cmd := s.sidecar(socket, nil, "sh", "-c", "trap 'echo caught; exit 3' "+name+"; echo started; while :; do sleep 0.02; done")
			lines := s.piped(cmd)
			s.wantNext(lines, "started")
			s.must(cmd.Process.Signal(signal))
			s.wantNext(lines, "caught")
			s.wantEnd(lines)
			if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 3 {
				t.Errorf("%v", cmd.ProcessState)
			}
		})
	}
}

// TestSidecarKilled kills either side: what it cannot tell the other one.
func TestSidecarKilled(t *testing.T) {
	s := limpetOnly(t)
	server, socket := s.sidecarServer()
	client := s.sidecar(socket, nil, "sh", "-c", family)
	lines := s.piped(client)
	s.wantNext(lines, "started")
	s.must(client.Process.Kill())
	_ = client.Wait()
	s.wantEnd(lines) // the command is gone, and its child
	s.must(harness.Run(s.sidecar(socket, nil, "true")).Err())

	client = s.sidecar(socket, nil, "sh", "-c", "echo started; exec sleep 1000000")
	lines = s.piped(client)
	s.wantNext(lines, "started")
	s.must(server.Process.Kill())
	s.wantEnd(lines)
	if _ = client.Wait(); client.ProcessState.ExitCode() != 125 {
		t.Errorf("the client of a killed server: %v", client.ProcessState)
	}
}

// TestSidecarJobControl types Ctrl-Z and Ctrl-C at a shell that has a client in its foreground: the command stops, goes on and ends with
// it.
func TestSidecarJobControl(t *testing.T) {
	s := limpetOnly(t)
	_, socket := s.sidecarServer()
	cmd := exec.CommandContext(s.ctx, "bash", "--norc", "--noprofile", "-i")
	cmd.Env = append(os.Environ(), "PS1="+prompt, "LIMPET="+daemon.Build.Path("bin/limpet"), "SOCKET="+socket, "TERM=dumb")
	sh := shell{s, s.terminal(cmd)}
	sh.expect(prompt)
	// It starts nothing: a shell that is just starting a program stops only once that one goes on.
	const script = `trap "echo con""tinued" CONT; echo p""id $$; while :; do :; done`
	sh.must(sh.Type(`"$LIMPET" sidecar exec -c "$SOCKET" -- sh -c '` + script + "'\n"))
	pid := sh.expect(`pid (\d+)`)[1]
	sh.must(sh.Type("\x1a"))
	sh.expect(`Stopped`)
	sh.expect(prompt)
	s.awaitState(pid, "T")
	sh.must(sh.Type("fg\n"))
	sh.expect(`continued\s`)
	s.awaitState(pid, "SR")
	sh.must(sh.Type("\x03"))
	sh.expect(prompt)
	sh.must(sh.Type("echo status $?\n"))
	sh.expect(`status 130\s`)
	sh.must(sh.Type("exit 4\n"))
	sh.wantExit(4)
	if _, err := os.Stat("/proc/" + pid); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the command goes on: %v", err)
	}
}

// awaitState waits until a process is in one of the states of /proc/pid/stat.
func (s *scope) awaitState(pid, states string) {
	s.Helper()
	field := regexp.MustCompile(`\) (\w)`)
	ctx, cancel := context.WithTimeout(s.ctx, terminalTimeout)
	defer cancel()
	for {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		s.must(err)
		state := field.FindStringSubmatch(string(stat))
		if state != nil && strings.Contains(states, state[1]) {
			return
		}
		if ctx.Err() != nil {
			s.Fatalf("process %s is %s, not one of %s", pid, stat, states)
		}
	}
}

// TestSidecarPipe passes a gigabyte through a command. It has the caller's own pipes: nothing is copied.
func TestSidecarPipe(t *testing.T) {
	s := limpetOnly(t)
	_, socket := s.sidecarServer()
	const size = 1 << 30
	head := exec.CommandContext(s.ctx, "head", "-c", strconv.Itoa(size), "/dev/zero")
	cat := s.sidecar(socket, nil, "cat")
	count := exec.CommandContext(s.ctx, "wc", "-c")
	var err error
	cat.Stdin, err = head.StdoutPipe()
	s.must(err)
	count.Stdin, err = cat.StdoutPipe()
	s.must(err)
	s.must(head.Start())
	s.must(cat.Start())
	if result := harness.Run(count); result.Stdout != strconv.Itoa(size)+"\n" {
		t.Errorf("%q came through: %v", result.Stdout, result.Err())
	}
	s.must(cat.Wait())
	s.must(head.Wait())
}

// python prepares the program that shares no code with limpet.
func (s *scope) python(args ...string) *exec.Cmd {
	return exec.CommandContext(s.ctx, "python3", append([]string{"testdata/sidecar.py"}, args...)...)
}

// TestSidecarPython has a client that is not limpet's at both of limpet's servers, and limpet's client at another server.
func TestSidecarPython(t *testing.T) {
	s := limpetOnly(t)
	_, socket := s.sidecarServer()
	for name, socket := range map[string]string{"sidecar": socket, "sandbox": s.sleeper().commandDoor()} {
		t.Run(name, func(t *testing.T) {
			for _, test := range []struct {
				args   []string
				code   int
				stdout string
			}{
				{[]string{"sh", "-c", "cat; exit 7"}, 7, "input"},
				{[]string{"sh", "-c", "kill -9 $$"}, 137, ""},
				{[]string{"--signal", "15", "sleep", "1000000"}, 143, ""},
				{[]string{"--signal", "-2", "sleep", "1000000"}, 130, ""},
				{[]string{"no-such-program"}, 127, ""},
			} {
				cmd := s.python(append([]string{"exec", socket}, test.args...)...)
				cmd.Stdin = strings.NewReader("input")
				if result := harness.Run(cmd); result.Code != test.code || result.Stdout != test.stdout {
					t.Errorf("%q: exit code %d, standard output %q, standard error %q", test.args, result.Code, result.Stdout, result.Stderr)
				}
			}
			const invalid = " " + "22\n" // EINVAL
			result := harness.Run(s.python("malformed", socket))
			if result.Err() != nil || strings.Count(result.Stdout, invalid) != 10 || strings.Count(result.Stdout, "\n") != 10 {
				t.Errorf("malformed datagrams: %q, %v", result.Stdout, result.Err())
			}
			s.must(harness.Run(s.sidecar(socket, nil, "true")).Err())
		})
	}

	other := filepath.Join(s.TempDir(), "other")
	server := s.python("serve", other)
	said := s.piped(server)
	s.wantNext(said, "listening")
	flags := []string{"-w", "/", "-e", "A=b c", "--setpgid", "0", "--setuid", "5"}
	client := s.sidecar(other, flags, "sh", "-c", "echo started; read line; echo got $line")
	in, err := client.StdinPipe()
	s.must(err)
	lines := s.piped(client)
	s.wantNext(lines, "started")
	s.wantNext(said, `['sh', '-c', 'echo started; read line; echo got $line'] / [('A', 'b c')] [1, 7, 0, 5, -1, 9, 9] 3`)
	s.must(client.Process.Signal(unix.SIGCONT))
	s.wantNext(said, "signal -18")
	s.must(client.Process.Signal(unix.SIGWINCH))
	s.wantNext(said, "signal 28")
	_, err = io.WriteString(in, "it\n")
	s.must(err)
	s.wantNext(lines, "got it")
	s.must(client.Wait())
	s.must(server.Wait())
}

// TestCommandDoorGone kills a client whose command runs in a sandbox: the command ends there, and its child.
func TestCommandDoorGone(t *testing.T) {
	c := limpetOnly(t).sleeper()
	client := c.sidecar(c.commandDoor(), nil, "sh", "-c", family)
	lines := c.piped(client)
	c.wantNext(lines, "started")
	c.must(client.Process.Kill())
	_ = client.Wait()
	c.wantEnd(lines)
	if got := c.exec(nil, "sh", "-c", "ps | grep -c '[s]leep 1000000'"); got.Stdout != "1\n" {
		t.Errorf("%s of sleep 1000000 in the container, want its own; %v", got.Stdout, got.Err())
	}
}

// deadlineOf is when a context ends.
func deadlineOf(ctx context.Context) (deadline time.Time) {
	deadline, _ = ctx.Deadline()
	return deadline
}
