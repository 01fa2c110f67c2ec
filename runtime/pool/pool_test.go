package pool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/runtime/config"
)

// roleVariable makes this test's program a spare with that role, in the state directory that is its argument.
const roleVariable = "LIMPET_TEST_SPARE"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		if err := playSpare(role, os.Args[len(os.Args)-1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// playSpare is the process of a spare that has nothing to hand over but itself.
func playSpare(role, stateDir string) error {
	service, gone := Serve()
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-gone
		cancel()
	}()
	if role == "fails" {
		return errors.New("no machine")
	}
	spare := Spare{
		StateDir: stateDir, Config: "a configuration", Fresh: func() (string, error) { return "a configuration", nil },
		Logger: slog.New(slog.DiscardHandler),
	}
	door, err := spare.Open()
	if err != nil {
		return err
	}
	if err := service.Ready(); err != nil {
		return err
	}
	_, socket, err := door.Await(ctx, func(request Request, asker int) error {
		switch role {
		case "hangs when it is taken":
			select {}
		case "dies when it is taken":
			os.Exit(1)
		case "cannot be taken":
			return errors.New("a bug")
		}
		return service.Leave()
	})
	if err != nil {
		return err
	}
	return errors.Join(unix.Pause(), socket.Close()) // it serves, until it is killed
}

// newStateDir makes a state directory with an empty pool, short enough for sockets.
func newStateDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "limpet")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Mkdir(Dir(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// startSpare starts a process that plays a spare and is ready.
func startSpare(t *testing.T, role, stateDir string) *child {
	t.Helper()
	t.Setenv(roleVariable, role)
	started, err := startChild(os.Args[0], []string{stateDir})
	if err != nil {
		t.Fatal(err)
	}
	heard := make(chan status, 3)
	ended := make(chan struct{})
	go started.follow(func(what status, _ error) {
		heard <- what
		if what == statusEnded {
			close(ended)
		}
	})
	t.Cleanup(func() {
		started.kill()
		<-ended
	})
	if what := <-heard; what != statusReady {
		t.Fatalf("the spare is %s", what)
	}
	return started
}

// newRequest is one that fits, with a listening socket.
func newRequest(t *testing.T) (Request, *os.File) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "socket")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	socket, err := listener.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	return Request{
		Namespace: "ns", ID: "c1", Bundle: t.TempDir(), Socket: path, Stages: []byte("[]"), Config: "a configuration",
		Environment: []string{"FRUIT=fig"},
	}, socket
}

// askPatiently asks until there is a spare: on a busy host one may be too slow to answer in time.
func askPatiently(t *testing.T, stateDir string, request Request, socket *os.File) (pid int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		pid, err := Ask(stateDir, request, socket)
		if err == nil {
			return pid
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// TestAsk asks a spare that does not come along, and then one that does.
func TestAsk(t *testing.T) {
	for _, role := range []string{"hangs when it is taken", "dies when it is taken", "cannot be taken"} {
		t.Run(role, func(t *testing.T) {
			stateDir := newStateDir(t)
			bad := startSpare(t, role, stateDir)
			request, socket := newRequest(t)
			if pid, err := Ask(stateDir, request, socket); !errdefs.IsNotFound(err) {
				t.Errorf("got %d, %v", pid, err)
			}
			if doors, err := doorsOf(stateDir); err != nil || len(doors) > 0 && role != "dies when it is taken" {
				t.Errorf("it can be asked again: %v, %v", doors, err)
			}
			good := startSpare(t, "good", stateDir)
			if pid := askPatiently(t, stateDir, request, socket); pid != good.pid() || pid == bad.pid() {
				t.Errorf("got %d, want %d", pid, good.pid())
			}
			if pid, err := Ask(stateDir, request, socket); !errdefs.IsNotFound(err) {
				t.Errorf("a spare is taken twice: %d, %v", pid, err)
			}
		})
	}
}

// TestAskWhoDoesNotAnswer passes over sockets behind which nobody answers, in a bounded time.
func TestAskWhoDoesNotAnswer(t *testing.T) {
	stateDir := newStateDir(t)
	for i := range 10 {
		silent, err := net.Listen("unixpacket", filepath.Join(Dir(stateDir), fmt.Sprint("spare-", i, doorSuffix)))
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
	}
	request, socket := newRequest(t)
	began := time.Now()
	if pid, err := Ask(stateDir, request, socket); !errdefs.IsNotFound(err) {
		t.Errorf("got %d, %v", pid, err)
	}
	if took := time.Since(began); took > patience+2*offerTimeout+time.Second {
		t.Errorf("it took %s", took)
	}
}

// TestRefused looks for what a spare says to requests that do not fit, and that it can be taken after them.
func TestRefused(t *testing.T) {
	stateDir := newStateDir(t)
	good := startSpare(t, "good", stateDir)
	request, socket := newRequest(t)
	for want, change := range map[string]func(*Request, **os.File){
		"no namespace":         func(r *Request, _ **os.File) { r.Namespace = "" },
		"no id":                func(r *Request, _ **os.File) { r.ID = "" },
		"no bundle":            func(r *Request, _ **os.File) { r.Bundle = "" },
		"configuration":        func(r *Request, _ **os.File) { r.Config = "another" },
		"no socket came":       func(_ *Request, socket **os.File) { *socket = nil },
		"no listening socket":  func(_ *Request, socket **os.File) { *socket = os.Stderr },
		"at most 131072 are s": func(r *Request, _ **os.File) { r.Environment = []string{strings.Repeat("x", maxPacket)} },
	} {
		bad, file := request, socket
		change(&bad, &file)
		_, err := Ask(stateDir, bad, file)
		for errors.Is(err, os.ErrDeadlineExceeded) {
			_, err = Ask(stateDir, bad, file)
		}
		if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
	if pid := askPatiently(t, stateDir, request, socket); pid != good.pid() {
		t.Errorf("got %d, want %d", pid, good.pid())
	}
}

// TestRudeAskers says to a spare what no asker says. It can be taken after them.
func TestRudeAskers(t *testing.T) {
	stateDir := newStateDir(t)
	good := startSpare(t, "good", stateDir)
	request, socket := newRequest(t)
	for name, talk := range map[string]func(link) error{
		"hangs up at once":         func(link) error { return nil },
		"speaks no JSON":           func(l link) error { _, err := l.Write([]byte("hello")); return err },
		"hangs up with the answer": func(l link) error { return l.send(time.Second, request, socket) },
		"does not go": func(l link) error {
			err := l.send(time.Second, request, socket)
			return errors.Join(err, l.send(time.Second, word{}, nil))
		},
	} {
		doors, err := doorsOf(stateDir)
		if err != nil || len(doors) != 1 {
			t.Fatal(doors, err)
		}
		conn, err := net.Dial("unixpacket", doors[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(talk(link{conn.(*net.UnixConn)}), conn.Close()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if pid := askPatiently(t, stateDir, request, socket); pid != good.pid() {
		t.Errorf("got %d, want %d", pid, good.pid())
	}
}

func TestNature(t *testing.T) {
	own, err := natureOf(self)
	if err != nil {
		t.Fatal(err)
	}
	if what := own.differs(own); what != "" {
		t.Errorf("differs from itself in its %s", what)
	}
	for i := range own {
		other := slices.Clone(own)
		other[i].value += "other"
		if what := own.differs(other); what != own[i].name {
			t.Errorf("another %s: got %q", own[i].name, what)
		}
	}
	sleeper := exec.Command("unshare", "--uts", "sleep", "1000")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		sleeper.Process.Kill()
		sleeper.Wait()
	}()
	for err = nil; err == nil; { // until it has unshared
		err = alike(sleeper.Process.Pid)
	}
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "uts namespace") {
		t.Errorf("got %v", err)
	}
}

// TestAssume has a process take over what this one has.
func TestAssume(t *testing.T) {
	if os.Getenv("LIMPET_TEST_ASSUME") != "" {
		request := Request{Bundle: os.Getenv("LIMPET_TEST_ASSUME"), Environment: []string{"FRUIT=fig and date"}}
		if err := Assume(request, os.Getppid(), nil); err != nil {
			t.Fatal(err)
		}
		directory, err := os.Getwd()
		var files unix.Rlimit
		status, statusErr := statusOf(self)
		if err := errors.Join(err, statusErr, unix.Getrlimit(unix.RLIMIT_FSIZE, &files)); err != nil {
			t.Fatal(err)
		}
		fmt.Printf("assumed %s %s %d %s\n", directory, strings.Join(os.Environ(), " "), files.Cur, status["Umask"])
		return
	}
	bundle := t.TempDir()
	command := exec.Command("sh", "-c", `ulimit -S -f 1000000; umask 0777; exec "$0" -test.run 'TestAssume$' -test.v`, os.Args[0])
	command.Env = append(os.Environ(), "LIMPET_TEST_ASSUME="+bundle)
	output, err := command.CombinedOutput()
	var files unix.Rlimit
	if err := errors.Join(err, unix.Getrlimit(unix.RLIMIT_FSIZE, &files)); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	status, err := statusOf(self)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("assumed %s FRUIT=fig and date %d %s\n", bundle, files.Cur, status["Umask"])
	if !strings.Contains(string(output), want) {
		t.Errorf("got %s, want %s", output, want)
	}
}

func TestDigest(t *testing.T) {
	first, err := Digest(config.Default())
	if err != nil {
		t.Fatal(err)
	}
	again, _ := Digest(config.Default())
	changed := config.Default()
	changed.GuestData["more"] = "/more"
	other, _ := Digest(changed)
	if first != again || first == other {
		t.Errorf("%s, %s, %s", first, again, other)
	}
}
