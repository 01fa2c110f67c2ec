package vsock

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func TestParseBackend(t *testing.T) {
	for _, name := range []string{"auto", "kernel", "daemon"} {
		if got, err := ParseBackend(name); err != nil || string(got) != name {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := ParseBackend("pigeon"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("pigeon: %v", err)
	}
}

func TestChoose(t *testing.T) {
	there := filepath.Join(t.TempDir(), "vhost-vsock")
	if err := os.WriteFile(there, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		choice        Backend
		vhost, daemon string
		want          Backend
	}{
		{BackendAuto, there, there, BackendDaemon},
		{BackendAuto, there, there + "-not", BackendKernel},
		{BackendAuto, there + "-not", there, BackendDaemon},
		{BackendAuto, there + "-not", there + "-not", BackendDaemon},
		{BackendKernel, there + "-not", there, BackendKernel},
		{BackendDaemon, there, there + "-not", BackendDaemon},
	} {
		if got, err := choose(test.choice, test.vhost, test.daemon); got != test.want || err != nil {
			t.Errorf("%s: got %s, %v", test.choice, got, err)
		}
	}
}

func TestAllocateCID(t *testing.T) {
	broken := errors.New("broken")
	for _, test := range []struct {
		name string
		from uint32 // claims below it are refused
		with error
		want uint32
		is   error
	}{
		{"first", 0, unix.EADDRINUSE, 3, nil},
		{"third", 5, unix.EADDRINUSE, 5, nil},
		{"none", 1000, unix.EADDRINUSE, 0, errdefs.ErrResourceExhausted},
		{"broken", 1000, broken, 0, broken},
	} {
		next := uint32(minCID - 1)
		draw := func() uint32 { next++; return next }
		claim := func(cid uint32) error {
			if cid < test.from {
				return test.with
			}
			return nil
		}
		if got, err := allocateCID(draw, claim); got != test.want || !errors.Is(err, test.is) {
			t.Errorf("%s: got %d, %v", test.name, got, err)
		}
	}
}

func TestRandomCID(t *testing.T) {
	for range 1000 {
		if cid := randomCID(); cid < minCID || cid > maxCID {
			t.Fatalf("drew %d", cid)
		}
	}
}

func TestNames(t *testing.T) {
	event := func(name string, padding int) string {
		length := len(name) + padding
		return strings.Repeat("\x00", 12) + string([]byte{byte(length), 0, 0, 0}) + name + strings.Repeat("\x00", padding)
	}
	got := names([]byte(event("vsock", 11) + event("", 0) + event("vhost-user", 6)))
	if len(got) != 3 || !got["vsock"] || !got["vhost-user"] {
		t.Errorf("got %v", got)
	}
	if got := names([]byte(event("cut", 5)[:18])); !got["cu"] {
		t.Errorf("cut: got %v", got)
	}
}

// TestDialThrough plays the daemon.
func TestDialThrough(t *testing.T) {
	for _, test := range []struct {
		name, answer string
		ok           bool
	}{
		{"connected", "OK 1234\n", true},
		{"data follows at once", "OK 4294967295\n", true},
		{"no listener in the guest", "", false},
		{"another answer", "NO 1\n", false},
		{"endless answer", strings.Repeat("OK ", 100), false},
		{"half an answer", "OK 12", false},
	} {
		path := filepath.Join(t.TempDir(), "vsock")
		listener, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			conn, err := listener.Accept()
			if err != nil {
				return // the test says what happened
			}
			defer conn.Close()
			request, _ := bufio.NewReader(conn).ReadString('\n')
			if request != "CONNECT 8000\n" {
				t.Errorf("%s: asked %q", test.name, request)
			}
			_, _ = io.WriteString(conn, test.answer)
			if test.ok {
				_, _ = io.WriteString(conn, "data")
			}
		}()
		conn, err := dialThrough(t.Context(), path, 8000)
		if (err == nil) != test.ok {
			t.Errorf("%s: %v", test.name, err)
		}
		if err == nil {
			if data, err := io.ReadAll(conn); string(data) != "data" {
				t.Errorf("%s: read %q, %v", test.name, data, err)
			}
			_ = conn.Close()
		}
		_ = listener.Close()
	}
}

// TestDialContext gives up on a daemon that does not answer.
func TestDialContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vsock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		_, _ = bufio.NewReader(conn).ReadString('\n')
		cancel()
	}()
	if _, err := dialThrough(ctx, path, 8000); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestAcceptor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "session")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	strangers := 1
	a := newAcceptor(listener, 1, func(net.Conn) bool { strangers--; return strangers < 0 })
	dial := func() net.Conn {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Accept(canceled); !errors.Is(err, context.Canceled) {
		t.Errorf("a wait that is over: %v", err)
	}
	stranger := dial()
	if _, err := stranger.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the stranger: %v", err)
	}
	friend := dial()
	conn, err := a.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "x")
	_ = conn.Close()
	if data, err := io.ReadAll(friend); string(data) != "x" {
		t.Errorf("the friend: %q, %v", data, err)
	}
	late := dial() // nobody asks for it
	for range 2 {
		if err := a.close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := late.Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlives the device")
	}
	if _, err := a.Accept(t.Context()); err != net.ErrClosed {
		t.Errorf("accept after the end: %v", err)
	}
}

// TestListeners closes what is still open with the device, whose directory is renamed meanwhile.
func TestListeners(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "first")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	sockets, err := openSocketDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer sockets.close()
	var all listeners
	listen := func(port uint32) (Listener, error) {
		return all.add(func() (*acceptor, error) { return listenIn(sockets, port) })
	}
	first, err := listen(6001)
	if err != nil || first.Port() != 6001 {
		t.Fatal(first, err)
	}
	if _, err := listen(6001); err == nil {
		t.Error("two listen on one port")
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	renamed := dir + "-renamed"
	if err := os.Rename(dir, renamed); err != nil {
		t.Fatal(err)
	}
	again, err := listen(6001)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(renamed, dialSocket+"_6001")); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := all.close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := again.Accept(t.Context()); err != net.ErrClosed {
		t.Errorf("accept after the end: %v", err)
	}
	if _, err := listen(6002); !errors.Is(err, net.ErrClosed) {
		t.Errorf("listen after the end: %v", err)
	}
	if entries, err := os.ReadDir(renamed); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// TestDaemonErrors has daemons that do not come up.
func TestDaemonErrors(t *testing.T) {
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken")
	if err := os.WriteFile(broken, []byte("#!/bin/sh\necho no such thing >&2\nexit 2\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, daemon string
		is           error
		says         []string
	}{
		{"missing", filepath.Join(dir, "none"), errdefs.ErrNotFound, []string{"none", "modprobe vhost_vsock", "install the package"}},
		{"broken", broken, errDaemonEnded, []string{"exit status 2", "no such thing"}},
	} {
		sockets := t.TempDir()
		_, err := New(t.Context(), Options{Backend: BackendDaemon, Dir: sockets, Daemon: test.daemon, Logger: slog.New(slog.DiscardHandler)})
		if !errors.Is(err, test.is) {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		for _, part := range test.says {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q lacks %q", test.name, err, part)
			}
		}
		if entries, err := os.ReadDir(sockets); err != nil || len(entries) > 0 {
			t.Errorf("%s: left behind: %v, %v", test.name, entries, err)
		}
	}
	if check := Check(BackendDaemon, filepath.Join(dir, "none")); check.OK || !strings.Contains(check.Detail, "install") {
		t.Errorf("check: %+v", check)
	}
}
