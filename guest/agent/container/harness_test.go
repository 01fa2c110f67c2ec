package container

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/agent/agenttest"
	"github.com/limpet-run/limpet/guest/agent/streams"
	"github.com/limpet-run/limpet/guest/protocol"
)

// host is a set of containers as the host sees it.
type host struct {
	t     *testing.T
	set   *Set
	share string
	next  uint64

	mu      sync.Mutex
	streams map[protocol.Token]net.Conn
	exits   map[uint64]chan protocol.Exit
	log     []string
}

// allByCrun has crun start what a new host starts.
var allByCrun bool

func newHost(t *testing.T) *host {
	t.Helper()
	agenttest.NeedRoot(t)
	build := os.Getenv("LIMPET_BUILD")
	if build == "" {
		t.Skip("LIMPET_BUILD does not name a directory with a guest image's parts")
	}
	crun := filepath.Join(build, "guest", "crun")
	h := &host{
		t: t, share: t.TempDir(), streams: map[protocol.Token]net.Conn{}, exits: map[uint64]chan protocol.Exit{},
	}
	h.set = NewSet(Options{
		Reaper: agenttest.Reaper(), Streams: h, Reporter: h, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), Dir: t.TempDir(),
		CgroupRoot: "/sys/fs/cgroup", Share: h.share, Crun: crun,
		MountShare: func(context.Context) error { return nil }, Unmount: func() error { return nil },
	})
	if allByCrun {
		h.set.native = h.set.crun
	}
	return h
}

func (h *host) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	h.t.Cleanup(cancel)
	return ctx
}

// output is where a process's output goes, until the test closes it.
type output struct{ net.Conn }

func (o output) AwaitEnd() { _, _ = io.Copy(io.Discard, o.Conn) }

func (h *host) Output(_ context.Context, token protocol.Token, _ bool) (streams.Output, error) {
	conn, err := h.claim(token)
	return output{conn}, err
}

func (h *host) Input(_ context.Context, token protocol.Token, _ bool) (io.ReadCloser, error) {
	return h.claim(token)
}

func (h *host) claim(token protocol.Token) (net.Conn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if conn := h.streams[token]; conn != nil {
		return conn, nil
	}
	return nil, fmt.Errorf("no such token")
}

func (h *host) StreamEnd(requestID uint64, stream string, bytes uint64) {
	h.note(fmt.Sprintf("end %d %s %d", requestID, stream, bytes))
}

func (h *host) OOM(id string) { h.note("oom " + id) }

func (h *host) Exit(exit protocol.Exit) {
	h.note(fmt.Sprintf("exit %d", exit.RequestID))
	h.mu.Lock()
	defer h.mu.Unlock()
	h.exits[exit.RequestID] <- exit
}

func (h *host) note(what string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.log = append(h.log, what)
}

func (h *host) notes() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.log...)
}

// stream makes a connection that the agent will find under the returned token.
func (h *host) stream() (*protocol.Token, net.Conn) {
	h.t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "stream")
		if conns[i], err = net.FileConn(f); err != nil {
			h.t.Fatal(err)
		}
		f.Close()
	}
	token := protocol.NewToken()
	h.mu.Lock()
	h.streams[token] = conns[0]
	h.mu.Unlock()
	h.t.Cleanup(func() { conns[1].Close() })
	return &token, conns[1]
}

// task is a process as the host sees it.
type task struct {
	h                     *host
	id                    uint64
	stdin, stdout, stderr net.Conn
	process               *Process
}

func (h *host) newTask(terminal bool) (*task, *protocol.Streams) {
	h.next++
	k := &task{h: h, id: h.next}
	h.mu.Lock()
	h.exits[k.id] = make(chan protocol.Exit, 2)
	h.mu.Unlock()
	streams := &protocol.Streams{}
	streams.Stdin, k.stdin = h.stream()
	streams.Stdout, k.stdout = h.stream()
	if !terminal {
		streams.Stderr, k.stderr = h.stream()
	}
	return k, streams
}

// spec is a container's specification such as containerd makes it, with busybox for a rootfs.
func (h *host) spec(args ...string) *specs.Spec {
	caps := []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP",
		"CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
	return &specs.Spec{
		Version: "1.0.2",
		Process: &specs.Process{
			Args: args, Cwd: "/", Env: []string{"PATH=/usr/bin:/bin", "HOME=/root"}, NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
			Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1024, Soft: 1024}},
		},
		Root: &specs.Root{Path: "elsewhere"},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro"}},
		},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: "pid"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"}, {Type: "cgroup"},
		}},
	}
}

// prepare makes a container known.
func (h *host) prepare(id string) {
	h.t.Helper()
	rootfs := filepath.Join(h.share, id, "rootfs")
	for _, dir := range []string{"bin", "proc", "dev", "sys/fs/cgroup", "tmp"} {
		if err := os.MkdirAll(filepath.Join(rootfs, dir), 0o755); err != nil {
			h.t.Fatal(err)
		}
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(rootfs, "bin/busybox"), busybox, 0o755); err != nil {
		h.t.Fatal(err)
	}
	for _, applet := range []string{
		"sh", "cat", "true", "sleep", "echo", "id", "stty", "kill", "ls", "head", "env", "pwd", "grep", "sed", "tty",
	} {
		if err := os.Symlink("busybox", filepath.Join(rootfs, "bin", applet)); err != nil {
			h.t.Fatal(err)
		}
	}
	if err := h.set.Prepare(h.context(), protocol.Prepare{ContainerID: id, Rootfs: id + "/rootfs"}); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		if c := h.set.containers[id]; c != nil {
			if err := c.clean(); err != nil {
				h.t.Error(err)
			}
		}
	})
}

// tryRun starts a prepared container's init.
func (h *host) tryRun(id string, spec *specs.Spec, size *protocol.Size) (*task, error) {
	h.t.Helper()
	raw, err := json.Marshal(spec)
	if err != nil {
		h.t.Fatal(err)
	}
	k, streams := h.newTask(spec.Process.Terminal)
	k.process, err = h.set.Run(h.context(), protocol.Run{
		RequestID: k.id, ContainerID: id, Spec: raw, Terminal: spec.Process.Terminal, Streams: streams, Size: size,
	})
	return k.announce(err)
}

func (h *host) run(id string, spec *specs.Spec) *task {
	h.t.Helper()
	h.prepare(id)
	k, err := h.tryRun(id, spec, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	return k
}

// tryExec starts one more process.
func (h *host) tryExec(id string, process *specs.Process, size *protocol.Size) (*task, error) {
	h.t.Helper()
	raw, err := json.Marshal(process)
	if err != nil {
		h.t.Fatal(err)
	}
	k, streams := h.newTask(process.Terminal)
	k.process, err = h.set.Exec(h.context(), protocol.Exec{
		RequestID: k.id, ContainerID: id, Process: raw, TTY: process.Terminal, Streams: streams, Size: size,
	})
	return k.announce(err)
}

func (h *host) exec(id string, process *specs.Process) *task {
	h.t.Helper()
	k, err := h.tryExec(id, process, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	return k
}

func (k *task) announce(err error) (*task, error) {
	if err == nil {
		k.process.Announce()
	}
	return k, err
}

// wait waits for the exit.
func (k *task) wait() protocol.Exit {
	k.h.t.Helper()
	k.h.mu.Lock()
	exits := k.h.exits[k.id]
	k.h.mu.Unlock()
	select {
	case exit := <-exits:
		return exit
	case <-k.h.context().Done():
		k.h.t.Fatalf("process %d: no exit; heard %q", k.id, k.h.notes())
		return protocol.Exit{}
	}
}

// output reads an output until its announced end, and closes it as the host does.
func (k *task) output(stream string) string {
	k.h.t.Helper()
	exit := k.wait()
	k.h.mu.Lock()
	k.h.exits[k.id] <- exit
	k.h.mu.Unlock()
	conn := k.stdout
	if stream == "stderr" {
		conn = k.stderr
	}
	var n int
	for _, note := range k.h.notes() {
		var id uint64
		var name string
		var bytes int
		if c, _ := fmt.Sscanf(note, "end %d %s %d", &id, &name, &bytes); c == 3 && id == k.id && name == stream {
			n = bytes
		}
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(conn, data); err != nil {
		k.h.t.Fatalf("process %d: %d bytes of %s: %v", k.id, n, stream, err)
	}
	return string(data)
}

// expect reads from the output until it has seen want.
func (k *task) expect(want string) {
	k.h.t.Helper()
	if err := k.stdout.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		k.h.t.Fatal(err)
	}
	var seen bytes.Buffer
	one := make([]byte, 1)
	for !bytes.Contains(seen.Bytes(), []byte(want)) {
		if _, err := k.stdout.Read(one); err != nil {
			k.h.t.Fatalf("want %q in output, saw %q: %v", want, seen.String(), err)
		}
		seen.WriteByte(one[0])
	}
}

func (k *task) say(input string) {
	k.h.t.Helper()
	if _, err := io.WriteString(k.stdin, input); err != nil {
		k.h.t.Fatal(err)
	}
}

func marshal(v any) (json.RawMessage, error) { return json.Marshal(v) }
