package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/console"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/runtime/execsidecar"
)

func TestCommandSpec(t *testing.T) {
	umask := uint32(0o77)
	init := specs.Process{
		Args: []string{"init"}, Cwd: "/home", Env: []string{"A=1", "AB=2"}, Terminal: true, ConsoleSize: &specs.Box{Width: 1},
		User:         specs.User{UID: 5, GID: 6, AdditionalGids: []uint32{7}, Umask: &umask},
		Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}}, NoNewPrivileges: true,
	}
	was := fmt.Sprintf("%+v", init)
	plain := init
	plain.Args, plain.Terminal, plain.ConsoleSize = []string{"ls", "-l"}, false, nil
	for _, test := range []struct {
		name   string
		change func(*execsidecar.Command)
		want   func(*specs.Process)
	}{
		{"as init", func(*execsidecar.Command) {}, func(*specs.Process) {}},
		{"environment", func(c *execsidecar.Command) {
			c.Env = []execsidecar.Variable{{Name: "A", Value: "3"}, {Name: "C", Value: ""}}
		},
			func(p *specs.Process) { p.Env = []string{"AB=2", "A=3", "C="} }},
		{"directory", func(c *execsidecar.Command) { c.Dir = "/tmp" }, func(p *specs.Process) { p.Cwd = "/tmp" }},
		{"relative directory", func(c *execsidecar.Command) { c.Dir = "../etc" }, func(p *specs.Process) { p.Cwd = "/etc" }},
		{"user", func(c *execsidecar.Command) { c.UID = 8 }, func(p *specs.Process) { p.User = specs.User{UID: 8, GID: 6, Umask: &umask} }},
		{"group", func(c *execsidecar.Command) { c.GID = 9 }, func(p *specs.Process) { p.User.GID = 9 }},
	} {
		t.Run(test.name, func(t *testing.T) {
			command := execsidecar.NewCommand("ls", "-l")
			test.change(&command)
			want := plain
			test.want(&want)
			if got := commandSpec(&init, command); !reflect.DeepEqual(*got, want) {
				t.Errorf("got %+v, want %+v", *got, want)
			}
			if now := fmt.Sprintf("%+v", init); now != was {
				t.Errorf("init was changed: %s", now)
			}
		})
	}
}

func TestSplitContainer(t *testing.T) {
	command := execsidecar.NewCommand("true")
	command.Env = []execsidecar.Variable{{Name: "A", Value: "1"}, {Name: ContainerVariable, Value: "c1"}, {Name: "B", Value: "2"}}
	rest, id := splitContainer(command)
	if want := []execsidecar.Variable{{Name: "A", Value: "1"}, {Name: "B", Value: "2"}}; id != "c1" || !reflect.DeepEqual(rest.Env, want) {
		t.Errorf("%q, %v", id, rest.Env)
	}
	if len(command.Env) != 3 {
		t.Errorf("the command was changed: %v", command.Env)
	}
}

func TestCommandResult(t *testing.T) {
	for _, test := range []struct {
		exit ExitStatus
		want execsidecar.Result
	}{
		{ExitStatus{Code: 0, Reason: "exited"}, execsidecar.Result{Kind: execsidecar.ResultExited}},
		{ExitStatus{Code: 137, Reason: "exited"}, execsidecar.Result{Kind: execsidecar.ResultExited, Value: 137}},
		{ExitStatus{Code: 137, Reason: "killed"}, execsidecar.Result{Kind: execsidecar.ResultSignaled, Value: 9}},
		{ExitStatus{Code: 143, Reason: "signal: 15"}, execsidecar.Result{Kind: execsidecar.ResultSignaled, Value: 15}},
		{lostStatus(), execsidecar.Result{Kind: execsidecar.ResultExited, Value: 255}},
	} {
		if got := commandResult(test.exit); got != test.want {
			t.Errorf("%+v: %+v, want %+v", test.exit, got, test.want)
		}
	}
}

func TestErrnoOf(t *testing.T) {
	for _, test := range []struct {
		err  error
		want unix.Errno
	}{
		{fmt.Errorf("container x: %w", errdefs.ErrNotFound), unix.ENOENT},
		{errors.New("exec: /bin/x: No such file or directory"), unix.ENOENT},
		{errors.New("exec: /bin/x: permission denied"), unix.EACCES},
		{fmt.Errorf("paused: %w", errdefs.ErrFailedPrecondition), unix.EAGAIN},
		{errVMLost, unix.EAGAIN},
		{errdefs.ErrInvalidArgument, unix.EINVAL},
		{errdefs.ErrNotImplemented, unix.EOPNOTSUPP},
		{errors.New("something"), unix.EIO},
	} {
		if got := errnoOf(test.err); got != test.want {
			t.Errorf("%v: %v, want %v", test.err, got, test.want)
		}
	}
}

// caller is a client of a sandbox's door for commands.
type caller struct {
	t       *testing.T
	w       *world
	signals chan os.Signal
	leave   context.CancelFunc
	done    chan struct{} // closed when the following are known
	result  execsidecar.Result
	err     error
}

// call runs a command.
func (w *world) call(t *testing.T, command execsidecar.Command, files execsidecar.Files) *caller {
	ctx, leave := context.WithTimeout(t.Context(), testTimeout)
	c := &caller{t: t, w: w, signals: make(chan os.Signal), leave: leave, done: make(chan struct{})}
	t.Cleanup(leave)
	go func() {
		defer close(c.done)
		c.result, c.err = execsidecar.Run(ctx, filepath.Join(w.dir.path, CommandDoor), command, files, c.signals)
	}()
	return c
}

// process is the process that the guest was told to start for the caller.
func (c *caller) process() (protocol.Exec, *specs.Process) {
	c.t.Helper()
	for {
		if execs := got[protocol.Exec](c.w.fakeGuest); len(execs) > 0 {
			last := execs[len(execs)-1]
			var spec specs.Process
			if err := json.Unmarshal(last.Process, &spec); err != nil {
				c.t.Fatal(err)
			}
			return last, &spec
		}
		select {
		case <-c.done:
			c.t.Fatalf("the command has ended: %+v, %v", c.result, c.err)
		case <-time.After(time.Millisecond): // the fake tells of nothing
		}
	}
}

// awaitSignal waits until the guest has got a signal.
func (w *world) awaitSignal() {
	for len(got[protocol.Signal](w.fakeGuest)) == 0 {
		time.Sleep(time.Millisecond) // the fake tells of nothing
	}
}

// ends has the guest report the end of the caller's process.
func (w *world) ends(exec protocol.Exec, code int32, reason string) {
	w.events.Exit(protocol.Exit{RequestID: exec.RequestID, Code: code, Reason: reason})
}

func (c *caller) want(want execsidecar.Result) {
	c.t.Helper()
	wait(c.t, c.done, "the caller's end")
	if c.result != want || c.err != nil {
		c.t.Errorf("%+v, %v; want %+v", c.result, c.err, want)
	}
}

func pipes(t *testing.T) (read, write *os.File) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { read.Close(); write.Close() })
	return read, write
}

// TestCommand runs a command with the caller's descriptors.
func TestCommand(t *testing.T) {
	w := newTestSandbox(t)
	container := w.run(t, IO{})
	stdinRead, stdin := pipes(t)
	stdout, stdoutWrite := pipes(t)
	command := execsidecar.NewCommand("cat", "-")
	command.Env = []execsidecar.Variable{{Name: ContainerVariable, Value: "c1"}}
	c := w.call(t, command, execsidecar.Files{stdinRead, stdoutWrite})
	exec, spec := c.process()
	if exec.ContainerID != "c1" || exec.TTY || exec.Streams.Stderr != nil || strings.Join(spec.Args, " ") != "cat -" || len(spec.Env) > 0 {
		t.Errorf("started %+v, %+v", exec, spec)
	}
	if _, err := stdin.WriteString("ping"); err != nil {
		t.Fatal(err)
	}
	in, out := w.fakeGuest.stream(t, *exec.Streams.Stdin), w.fakeGuest.stream(t, *exec.Streams.Stdout)
	text := make([]byte, 4)
	if _, err := io.ReadFull(in, text); string(text) != "ping" || err != nil {
		t.Errorf("the guest reads %q, %v", text, err)
	}
	go func() { _, _ = out.Write([]byte("pong")) }()
	if _, err := io.ReadFull(stdout, text); string(text) != "pong" || err != nil {
		t.Errorf("the caller reads %q, %v", text, err)
	}
	c.signals <- unix.SIGUSR1
	w.awaitSignal()
	w.events.StreamEnd(protocol.StreamEnd{RequestID: exec.RequestID, Stream: "stdout", Bytes: 4})
	w.ends(exec, 3, "exited")
	c.want(execsidecar.Result{Kind: execsidecar.ResultExited, Value: 3})
	c.wantForgotten(container)
	if sent := got[protocol.Signal](w.fakeGuest); len(sent) != 1 || sent[0] != (protocol.Signal{RequestID: exec.RequestID, Signal: 10}) {
		t.Errorf("signals %+v", sent)
	}
}

// wantForgotten waits until nothing is left of the caller's command.
func (c *caller) wantForgotten(container *Container) {
	c.t.Helper()
	deadline := time.Now().Add(testTimeout)
	for len(execsOf(container)) > 0 {
		if time.Now().After(deadline) {
			c.t.Fatalf("left: %v", execsOf(container))
		}
		time.Sleep(time.Millisecond) // it is forgotten after the caller was told of its end
	}
}

func execsOf(c *Container) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.execs))
}

// TestCommandGone has callers leave: their processes are killed, with what they started, and output that nobody reads holds nothing up.
func TestCommandGone(t *testing.T) {
	w := newTestSandbox(t)
	w.fakeGuest.answer = func(_ context.Context, message protocol.HostMessage) (protocol.GuestMessage, error) {
		if signal, ok := message.(protocol.Signal); ok && signal.Signal == -9 {
			w.events.StreamEnd(protocol.StreamEnd{RequestID: signal.RequestID, Stream: "stdout", Bytes: 1 << 40})
			go w.events.Exit(protocol.Exit{RequestID: signal.RequestID, Code: 137, Reason: "killed"})
		}
		return nil, nil
	}
	container := w.run(t, IO{})
	_, write := pipes(t) // nobody reads it
	c := w.call(t, execsidecar.NewCommand("yes"), execsidecar.Files{1: write})
	exec, _ := c.process()
	out := w.fakeGuest.stream(t, *exec.Streams.Stdout)
	blocked := make(chan struct{})
	go func() {
		defer close(blocked)
		for err := error(nil); err == nil; {
			_, err = out.Write(make([]byte, 4096))
		}
	}()
	c.leave()
	wait(t, c.done, "the caller's end")
	if !errors.Is(c.err, context.Canceled) {
		t.Errorf("%+v, %v", c.result, c.err)
	}
	c.wantForgotten(container)
	wait(t, blocked, "the stream's end")
}

// TestCommandUndelivered has a caller wait until a slow reader has what its command wrote.
func TestCommandUndelivered(t *testing.T) {
	w := newTestSandbox(t)
	w.run(t, IO{})
	read, write := pipes(t)
	c := w.call(t, execsidecar.NewCommand("yes"), execsidecar.Files{1: write})
	exec, _ := c.process()
	out := w.fakeGuest.stream(t, *exec.Streams.Stdout)
	const size = 1 << 20
	w.events.StreamEnd(protocol.StreamEnd{RequestID: exec.RequestID, Stream: "stdout", Bytes: size})
	w.ends(exec, 0, "exited")
	go func() { _, _ = out.Write(make([]byte, size)) }()
	select {
	case <-c.done:
		t.Error("the end is reported before the output is delivered")
	case <-time.After(exitDrain + 100*time.Millisecond): // the runtime's own wait is over
	}
	if n, err := io.CopyN(io.Discard, read, size); err != nil {
		t.Errorf("read %d, %v", n, err)
	}
	c.want(execsidecar.Result{Kind: execsidecar.ResultExited})
}

// TestCommandRefused has commands that are not started.
func TestCommandRefused(t *testing.T) {
	w := newTestSandbox(t)
	w.fakeGuest.answer = func(_ context.Context, message protocol.HostMessage) (protocol.GuestMessage, error) {
		if _, ok := message.(protocol.Exec); ok {
			return nil, errors.New("exec: true: no such file or directory")
		}
		return nil, nil
	}
	refused := func(errno unix.Errno, change func(*execsidecar.Command)) {
		t.Helper()
		command := execsidecar.NewCommand("true")
		change(&command)
		c := w.call(t, command, execsidecar.Files{})
		wait(t, c.done, "the caller's end")
		if !errors.Is(c.err, errno) {
			t.Errorf("%v, want %v", c.err, errno)
		}
	}
	none := func(*execsidecar.Command) {}
	refused(unix.EAGAIN, none) // no container
	container := w.create(t, IO{})
	refused(unix.EAGAIN, none) // none that runs
	if err := container.Init().Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	refused(unix.ENOENT, func(c *execsidecar.Command) { c.Env = []execsidecar.Variable{{Name: ContainerVariable, Value: "c2"}} })
	refused(unix.EOPNOTSUPP, func(c *execsidecar.Command) { c.Startup = execsidecar.IgnoreHangUp })
	refused(unix.EOPNOTSUPP, func(c *execsidecar.Command) { c.Startup, c.Group = execsidecar.JoinGroup, 7 })
	refused(unix.ENOENT, none)
	if left := execsOf(container); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestCommandTerminal has a terminal follow the caller's, which is raw meanwhile.
func TestCommandTerminal(t *testing.T) {
	w := newTestSandbox(t)
	w.run(t, IO{})
	master, path, err := console.NewPty()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	slave, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	echoes := func() bool {
		settings, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		return settings.Lflag&unix.ECHO != 0
	}
	if err := master.Resize(console.WinSize{Width: 80, Height: 24}); err != nil {
		t.Fatal(err)
	}
	c := w.call(t, execsidecar.NewCommand("sh"), execsidecar.Files{slave, slave, slave})
	exec, spec := c.process()
	if !exec.TTY || exec.Size == nil || *exec.Size != (protocol.Size{Cols: 80, Rows: 24}) || exec.Streams.Stderr != nil ||
		!reflect.DeepEqual(spec.Env, []string{"TERM=xterm"}) {
		t.Errorf("started %+v with %v", exec, spec.Env)
	}
	if echoes() {
		t.Error("the caller's terminal is not raw")
	}
	if _, err := master.Write([]byte("\x03")); err != nil {
		t.Fatal(err)
	}
	in := w.fakeGuest.stream(t, *exec.Streams.Stdin)
	typed := make([]byte, 1)
	if _, err := io.ReadFull(in, typed); typed[0] != 3 || err != nil {
		t.Errorf("the guest reads %q, %v", typed, err)
	}
	if err := master.Resize(console.WinSize{Width: 132, Height: 43}); err != nil {
		t.Fatal(err)
	}
	c.signals <- unix.SIGWINCH
	c.signals <- unix.SIGCONT // the one after it has arrived when this one was taken; so has the first
	w.awaitSignal()
	if sizes := got[protocol.Resize](w.fakeGuest); len(sizes) != 1 || sizes[0].Size != (protocol.Size{Cols: 132, Rows: 43}) {
		t.Errorf("sizes %+v", sizes)
	}
	w.events.StreamEnd(protocol.StreamEnd{RequestID: exec.RequestID, Stream: "stdout"})
	w.ends(exec, 0, "exited")
	c.want(execsidecar.Result{Kind: execsidecar.ResultExited})
	if !echoes() {
		t.Error("the caller's terminal is left raw")
	}
}

// TestCommandSignals says what becomes of signals.
func TestCommandSignals(t *testing.T) {
	w := newTestSandbox(t)
	w.run(t, IO{})
	p, err := w.startCommand(t.Context(), execsidecar.NewCommand("sleep"), execsidecar.Files{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for _, test := range []struct {
		signal unix.Signal
		group  bool
		want   int32
	}{
		{unix.SIGINT, false, 2},
		{unix.SIGTSTP, true, -19}, // it would be ignored
		{unix.SIGCONT, true, -18},
		{unix.SIGWINCH, false, 28}, // there is no terminal
	} {
		if err := p.Signal(test.signal, test.group); err != nil {
			t.Errorf("%v: %v", test.signal, err)
		}
		sent := got[protocol.Signal](w.fakeGuest)
		if last := sent[len(sent)-1]; last.Signal != test.want {
			t.Errorf("%v: sent %d, want %d", test.signal, last.Signal, test.want)
		}
	}
	exec := got[protocol.Exec](w.fakeGuest)[0]
	w.ends(exec, 130, "signal: 2")
	if result := p.Wait(); result != (execsidecar.Result{Kind: execsidecar.ResultSignaled, Value: 2}) {
		t.Errorf("result %+v", result)
	}
	if err := p.Signal(unix.SIGINT, false); err != nil {
		t.Errorf("after the end: %v", err)
	}
}
