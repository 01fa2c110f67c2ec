package execsidecar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// listen starts a server, and returns its socket and what its end brings.
func listen(t *testing.T) (path string, ended <-chan error) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "socket")
	return path, listenAt(t, path)
}

// listenAt starts a server and waits until it listens.
func listenAt(t *testing.T, path string) <-chan error {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	listening := make(chan struct{})
	handler := noticed{slog.NewTextHandler(t.Output(), nil), listening}
	ended := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ended <- Listen(ctx, path, slog.New(handler))
	}()
	t.Cleanup(func() { stop(); <-done })
	select {
	case <-listening:
	case <-done:
	}
	return ended
}

// noticed closes a channel at the first line of a log, in which a server says that it listens.
type noticed struct {
	slog.Handler
	first chan struct{}
}

func (n noticed) Handle(ctx context.Context, record slog.Record) error {
	if strings.HasPrefix(record.Message, "commands are run") {
		close(n.first)
	}
	return n.Handler.Handle(ctx, record)
}

// run runs a command at a server and returns what it wrote.
func run(t *testing.T, path string, command Command, stdin string) (stdout, stderr string, result Result, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	var files Files
	var texts [maxDescriptors]string
	for i := range files {
		read, write := pipe(t)
		if i == 0 {
			files[i] = read
			go func() { _, _ = io.WriteString(write, stdin); write.Close() }()
			continue
		}
		files[i] = write
		defer func() {
			write.Close()
			text, readErr := io.ReadAll(read)
			texts[i], err = string(text), errors.Join(err, readErr)
			stdout, stderr = texts[1], texts[2]
		}()
	}
	result, err = Run(ctx, path, command, files, nil)
	return stdout, stderr, result, err
}

func shell(script string) Command { return NewCommand("sh", "-c", script) }

func TestRun(t *testing.T) {
	path, _ := listen(t)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	plain := filepath.Join(dir, "plain")
	if err := errors.Join(
		os.WriteFile(plain, []byte("no program"), 0o644),
		os.WriteFile(filepath.Join(dir, "tool"), []byte("#!/bin/sh\necho tool"), 0o755),
	); err != nil {
		t.Fatal(err)
	}
	change := func(command Command, change func(*Command)) Command {
		change(&command)
		return command
	}
	for _, test := range []struct {
		name           string
		command        Command
		stdin          string
		stdout, stderr string
		result         Result
		errno          unix.Errno
	}{
		{"streams", shell("cat; echo err >&2; exit 3"), "in", "in", "err\n", Result{ResultExited, 3}, 0},
		{"signal", shell("kill -9 $$"), "", "", "", Result{ResultSignaled, 9}, 0},
		{"directory", change(shell("pwd"), func(c *Command) { c.Dir = dir }), "", dir + "\n", "", Result{ResultExited, 0}, 0},
		{"relative program", change(NewCommand("./tool"), func(c *Command) { c.Dir = dir }), "", "tool\n", "", Result{ResultExited, 0}, 0},
		{"environment", change(shell("echo $FRUIT:$HOME"), func(c *Command) { c.Env = []Variable{{"FRUIT", "fig"}, {"FRUIT", "a=b c"}} }), "",
			"a=b c:" + os.Getenv("HOME") + "\n", "", Result{ResultExited, 0}, 0},
		{"path", change(NewCommand("tool"), func(c *Command) { c.Env = []Variable{{"PATH", "/nowhere:" + dir}} }), "", "tool\n", "",
			Result{ResultExited, 0}, 0},
		{"path of the directory", change(NewCommand("tool"), func(c *Command) { c.Dir, c.Env = dir, []Variable{{"PATH", ":/bin"}} }), "",
			"tool\n", "", Result{ResultExited, 0}, 0},
		{"missing program", NewCommand("no-such-program"), "", "", "", Result{}, unix.ENOENT},
		{"missing path", NewCommand("/no/such/program"), "", "", "", Result{}, unix.ENOENT},
		{"no program", NewCommand(plain), "", "", "", Result{}, unix.EACCES},
		{"no program in the path", change(NewCommand("plain"), func(c *Command) { c.Env = []Variable{{"PATH", dir}} }), "", "", "",
			Result{}, unix.EACCES},
		{"missing directory", change(shell("pwd"), func(c *Command) { c.Dir = "/nowhere" }), "", "", "", Result{}, unix.ENOENT},
		{"no directory", change(shell("pwd"), func(c *Command) { c.Dir = plain }), "", "", "", Result{}, unix.ENOTDIR},
		{"without SIGHUP", change(shell("pwd"), func(c *Command) { c.Startup = IgnoreHangUp }), "", "", "", Result{}, unix.EOPNOTSUPP},
		{"no such group", change(shell("pwd"), func(c *Command) { c.Startup, c.Group = JoinGroup, 1<<30 }), "", "", "", Result{}, unix.EPERM},
	} {
		t.Run(test.name, func(t *testing.T) {
			stdout, stderr, result, err := run(t, path, test.command, test.stdin)
			var refused *StartError
			errors.As(err, &refused)
			if stdout != test.stdout || stderr != test.stderr || result != test.result ||
				test.errno == 0 && err != nil || test.errno != 0 && (refused == nil || refused.Errno != test.errno) {
				t.Errorf("%q, %q, %+v, %v", stdout, stderr, result, err)
			}
		})
	}
}

// TestRunUser has commands of other users and groups.
func TestRunUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	path, _ := listen(t)
	for _, test := range []struct {
		uid, gid int32
		want     string
	}{{77, Keep, "77 0 0"}, {Keep, 88, "0 88 88"}, {77, 88, "77 88 88"}} {
		command := shell("echo $(id -u) $(id -g) $(id -G)")
		command.UID, command.GID = test.uid, test.gid
		if stdout, _, _, err := run(t, path, command, ""); strings.TrimSpace(stdout) != test.want || err != nil {
			t.Errorf("user %d, group %d: %q, %v", test.uid, test.gid, stdout, err)
		}
	}
}

// TestRunSession looks at the group and session of commands: fields 5 and 6 of /proc/self/stat.
func TestRunSession(t *testing.T) {
	path, _ := listen(t)
	session, err := unix.Getsid(0)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		startup Startup
		group   int32
		want    func(pid int) string
	}{
		{0, 0, func(pid int) string { return fmt.Sprint(pid, " ", session) }},
		{JoinGroup, 0, func(pid int) string { return fmt.Sprint(pid, " ", session) }},
		{JoinGroup, int32(unix.Getpgrp()), func(int) string { return fmt.Sprint(unix.Getpgrp(), " ", session) }},
		{NewSession, 0, func(pid int) string { return fmt.Sprint(pid, " ", pid) }},
		{DetachTerminal | NewSession | JoinGroup, 0, func(pid int) string { return fmt.Sprint(pid, " ", pid) }},
	} {
		command := shell("read pid comm state parent group session rest </proc/self/stat; echo $pid $group $session")
		command.Startup, command.Group = test.startup, test.group
		stdout, _, _, err := run(t, path, command, "")
		first, rest, _ := strings.Cut(strings.TrimSpace(stdout), " ")
		pid, _ := strconv.Atoi(first)
		if rest != test.want(pid) || err != nil {
			t.Errorf("startup %#x, group %d: %q, %v; want %q", uint32(test.startup), test.group, stdout, err, test.want(pid))
		}
	}
}

// TestRunGone has clients go: what their commands started goes, too, and other clients notice nothing.
func TestRunGone(t *testing.T) {
	path, _ := listen(t)
	other := make(chan error, 1)
	otherIn, otherWrite := pipe(t)
	go func() {
		result, err := Run(t.Context(), path, NewCommand("cat"), Files{otherIn}, nil)
		other <- errors.Join(err, wantExited(result))
	}()
	read, write := pipe(t)
	ctx, leave := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := Run(ctx, path, shell("sh -c 'echo started; exec sleep 1000000' & wait"), Files{1: write}, nil)
		done <- err
	}()
	if _, err := io.ReadFull(read, make([]byte, len("started\n"))); err != nil {
		t.Fatal(err)
	}
	leave()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the client ends with %v", err)
	}
	wantClosed(t, read, write)
	otherWrite.Close()
	if err := <-other; err != nil {
		t.Errorf("another client: %v", err)
	}
}

func wantExited(result Result) error {
	if result != (Result{ResultExited, 0}) {
		return fmt.Errorf("result %+v", result)
	}
	return nil
}

// TestStop ends a server, and with it a command.
func TestStop(t *testing.T) {
	path, ended := listen(t)
	read, write := pipe(t)
	done := make(chan error, 1)
	go func() {
		_, err := Run(t.Context(), path, shell("echo started; exec sleep 1000000"), Files{1: write}, nil)
		done <- err
	}()
	if _, err := io.ReadFull(read, make([]byte, len("started\n"))); err != nil {
		t.Fatal(err)
	}
	if err := Stop(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, errLost) && !gone(err) {
		t.Errorf("the command's client ends with %v", err)
	}
	wantClosed(t, read, write)
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket after the end: %v", err)
	}
	if err := Stop(t.Context(), path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a server: %v", err)
	}
}

// TestListenAgain listens where a server is, where one was, and where there is something else.
func TestListenAgain(t *testing.T) {
	path, _ := listen(t)
	if err := <-listenAt(t, path); err == nil || !strings.Contains(err.Error(), "listens there already") {
		t.Errorf("beside a server: %v", err)
	}
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale")
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: stale, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	listener.Close()
	listenAt(t, stale)
	if _, _, result, err := run(t, stale, NewCommand("true"), ""); err != nil || result.ExitCode() != 0 {
		t.Errorf("after a server: %+v, %v", result, err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-listenAt(t, file); err == nil {
		t.Error("a file was replaced")
	}
	if text, err := os.ReadFile(file); string(text) != "mine" || err != nil {
		t.Errorf("the file: %q, %v", text, err)
	}
}

// TestRunSignals passes on signals, which may come before the client knows that its command runs.
func TestRunSignals(t *testing.T) {
	path, _ := listen(t)
	read, write := pipe(t)
	signals := make(chan os.Signal, 1)
	done := make(chan Result, 1)
	go func() {
		command := shell(`trap "echo user; exit 5" USR1; echo started; while :; do sleep 0.01; done`)
		result, err := Run(t.Context(), path, command, Files{1: write}, signals)
		if err != nil {
			t.Error(err)
		}
		done <- result
	}()
	if _, err := io.ReadFull(read, make([]byte, len("started\n"))); err != nil {
		t.Fatal(err)
	}
	signals <- unix.SIGWINCH // ignored by the shell
	signals <- unix.SIGUSR1
	if result := <-done; result != (Result{ResultExited, 5}) {
		t.Errorf("result %+v", result)
	}
	write.Close()
	if said, err := io.ReadAll(read); string(said) != "user\n" || err != nil {
		t.Errorf("it said %q, %v", said, err)
	}
}

// TestRunInterrupted interrupts a client whose server does not answer.
func TestRunInterrupted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	signals := make(chan os.Signal, 2)
	signals <- unix.SIGUSR1 // of no use yet
	signals <- unix.SIGINT
	if result, err := Run(t.Context(), path, NewCommand("true"), Files{}, signals); result.ExitCode() != 130 || err != nil {
		t.Errorf("%+v, %v", result, err)
	}
}

// TestRunAnswers has servers that answer wrongly.
func TestRunAnswers(t *testing.T) {
	started := Started{OK: true, PID: 1}.encode()
	for _, test := range []struct {
		name    string
		answers [][]byte
		want    error
	}{
		{"nothing", nil, errLost},
		{"started only", [][]byte{started}, errLost},
		{"malformed start", [][]byte{{7}}, errMalformed},
		{"long start", [][]byte{make([]byte, maxStarted+1)}, errMalformed},
		{"malformed result", [][]byte{started, {7}}, errMalformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			client, server := pair(t)
			for _, answer := range test.answers {
				if err := send(server, answer); err != nil {
					t.Fatal(err)
				}
			}
			server.Close()
			if result, err := attend(client, nil); !errors.Is(err, test.want) {
				t.Errorf("%+v, %v; want %v", result, err, test.want)
			}
		})
	}
}

// TestRunTooLong has a command that no datagram holds.
func TestRunTooLong(t *testing.T) {
	path, _ := listen(t)
	for _, size := range []int{512 << 10, 2 << 20} {
		_, err := Run(t.Context(), path, NewCommand("true", strings.Repeat("x", size)), Files{}, nil)
		if err == nil || !strings.Contains(err.Error(), "bytes") {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	// The server is well.
	if _, _, result, err := run(t, path, NewCommand("true"), ""); err != nil || result.ExitCode() != 0 {
		t.Errorf("%+v, %v", result, err)
	}
}
