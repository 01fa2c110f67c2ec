package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/agent/container"
	"github.com/limpet-run/limpet/guest/protocol"
)

// fakeMachine records what is done to it.
type fakeMachine struct {
	clock              int64
	entropy            string
	interfaces         []protocol.Interface
	processors, memory uint64
	disks              []string
	memoryDelay        chan struct{} // memory comes once it is closed; nil: at once
}

func (m *fakeMachine) SetClock(unixNano int64) error { m.clock = unixNano; return nil }
func (m *fakeMachine) Eject(string) error            { return nil }
func (m *fakeMachine) Reseed(entropy []byte) error   { m.entropy = string(entropy); return nil }
func (m *fakeMachine) ConfigureNetwork(_ context.Context, n protocol.Network) error {
	m.interfaces = append(m.interfaces, n.Interfaces...)
	return nil
}

func (m *fakeMachine) UseProcessors(count uint64) error { m.processors = count; return nil }

func (m *fakeMachine) AwaitDisk(_ context.Context, serial string) (protocol.BlockDevice, error) {
	m.disks = append(m.disks, serial)
	return protocol.BlockDevice{Major: 8, Minor: 16}, nil
}

func (m *fakeMachine) AwaitMemory(_ context.Context, bytes uint64) error {
	if m.memoryDelay != nil {
		<-m.memoryDelay
	}
	m.memory = bytes
	return nil
}

// fakeSSHAgent is in no container.
type fakeSSHAgent struct{}

func (fakeSSHAgent) Offer(protocol.SSHAgent) error { return nil }
func (fakeSSHAgent) Forget(string)                 {}

// fixture is an agent that dials the test.
type fixture struct {
	t       *testing.T
	agent   *Agent
	machine *fakeMachine
	volumes fakeVolumes
	dialled chan net.Conn
	ended   chan error
	share   string
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{
		t: t, machine: &fakeMachine{}, volumes: fakeVolumes{}, dialled: make(chan net.Conn), ended: make(chan error, 1), share: t.TempDir(),
	}
	f.agent = New(Options{
		Version: "test", Machine: f.machine, Volumes: f.volumes, Logger: slog.New(slog.DiscardHandler),
		SSHAgent: fakeSSHAgent{},
		Dial: func(ctx context.Context, _ uint32) (net.Conn, error) {
			ours, theirs := net.Pipe()
			select {
			case f.dialled <- theirs:
				return ours, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		},
		Containers: container.Options{
			Logger: slog.New(slog.DiscardHandler), Dir: t.TempDir(), CgroupRoot: t.TempDir(), Share: f.share,
			MountShare: func(context.Context) error { return nil }, Unmount: func() error { return nil },
		},
	})
	f.agent.Identify(Identity{BootID: "boot", CID: 3})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { f.ended <- f.agent.Run(ctx) }()
	t.Cleanup(cancel)
	return f
}

// host is the host's end of one session.
type host struct {
	t    *testing.T
	conn *protocol.HostConn
}

type incoming = protocol.Incoming[protocol.GuestMessage]

func (f *fixture) accept() host {
	f.t.Helper()
	select {
	case conn := <-f.dialled:
		h := host{f.t, protocol.NewHostConn(conn)}
		f.t.Cleanup(func() { h.conn.Close() })
		return h
	case <-time.After(10 * time.Second):
		f.t.Fatal("the agent does not dial")
		return host{}
	}
}

func (h host) read() incoming {
	h.t.Helper()
	in, err := h.conn.Read()
	if err != nil {
		h.t.Fatal(err)
	}
	return in
}

func (h host) send(id uint64, m protocol.HostMessage) {
	h.t.Helper()
	if err := h.conn.WriteCommand(h.t.Context(), id, m); err != nil {
		h.t.Fatal(err)
	}
}

// call sends a command and reads until its answer.
func (h host) call(id uint64, m protocol.HostMessage) incoming {
	h.t.Helper()
	h.send(id, m)
	for {
		if in := h.read(); in.Type == protocol.Response && in.CallID == id {
			return in
		}
	}
}

// login is the handshake up to ready.
func (f *fixture) login(auth protocol.Auth) (host, protocol.Hello) {
	f.t.Helper()
	h := f.accept()
	hello, ok := h.read().Message.(protocol.Hello)
	if !ok {
		f.t.Fatal("no hello")
	}
	if in := h.call(1, auth); in.Error != nil || in.Message != (protocol.AuthOK{}) {
		f.t.Fatalf("answer to auth: %+v", in)
	}
	h.conn.Authenticated()
	if in := h.read(); in.Message != (protocol.Ready{}) {
		f.t.Fatalf("after auth: %+v", in)
	}
	return h, hello
}

func auth(token string) protocol.Auth {
	return protocol.Auth{Token: protocol.Secret(token), ProtocolVersion: protocol.Version}
}

func TestHandshake(t *testing.T) {
	f := newFixture(t)
	now := int64(1700000000e9)
	first := auth("secret")
	first.Clock, first.Entropy = &now, []byte("random")
	h, hello := f.login(first)
	if want := (protocol.Hello{AgentVersion: "test", ProtocolVersion: protocol.Version, BootID: "boot", CID: 3}); hello != want {
		t.Errorf("hello %+v, want %+v", hello, want)
	}
	if f.machine.clock != now || f.machine.entropy != "random" {
		t.Errorf("machine %+v", f.machine)
	}
	h.conn.Close()
	f.login(auth("secret"))
}

func TestRefusedHosts(t *testing.T) {
	f := newFixture(t)
	h, _ := f.login(auth("secret"))
	h.conn.Close()
	wrongVersion := auth("secret")
	wrongVersion.ProtocolVersion++
	for name, first := range map[string]protocol.HostMessage{
		"wrong token": auth("Secret"), "no token": auth(""), "wrong version": wrongVersion, "no auth": protocol.Ack{},
	} {
		t.Run(name, func(t *testing.T) {
			h := f.accept()
			h.read() // hello
			h.send(1, first)
			if in := h.read(); in.Error == nil || !errdefs.IsUnauthorized(in.Error) {
				t.Errorf("answer %+v", in)
			}
			if in := h.read(); in.Message != (protocol.AuthFailed{}) {
				t.Errorf("then %+v", in)
			}
			if _, err := h.conn.Read(); !errors.Is(err, io.EOF) {
				t.Errorf("then %v, want the end", err)
			}
		})
	}
	f.login(auth("secret"))
}

func TestCommandsAreDoneOnce(t *testing.T) {
	f := newFixture(t)
	if err := os.MkdirAll(filepath.Join(f.share, "c/rootfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	h, _ := f.login(auth("secret"))
	prepare := protocol.Prepare{ContainerID: "c", Rootfs: "c/rootfs"}
	if in := h.call(2, prepare); in.Error != nil {
		t.Fatal(in.Error)
	}
	h.conn.Close()
	h, _ = f.login(auth("secret"))
	if in := h.call(2, prepare); in.Error != nil {
		t.Errorf("same call id again: %v", in.Error)
	}
	if in := h.call(3, prepare); !errdefs.IsAlreadyExists(in.Error) {
		t.Errorf("another call id: %+v", in)
	}
	if in := h.call(4, protocol.Plug{Device: "d"}); !errdefs.IsNotImplemented(in.Error) {
		t.Errorf("not served: %+v", in)
	}
	network := protocol.Network{Interfaces: []protocol.Interface{{Name: "eth0", MAC: "02:00:00:00:00:01", MTU: 1500}}}
	if in := h.call(7, network); in.Error != nil || len(f.machine.interfaces) != 1 {
		t.Errorf("network: %+v, the machine got %+v", in, f.machine.interfaces)
	}
	if in := h.call(5, protocol.Signal{RequestID: 7, Signal: 15}); !errdefs.IsNotFound(in.Error) {
		t.Errorf("signal to nobody: %+v", in)
	}
	if in := h.call(6, protocol.Prepare{ContainerID: "../c", Rootfs: "c/rootfs"}); !errdefs.IsInvalidArgument(in.Error) {
		t.Errorf("bad id: %+v", in)
	}
}

func TestPlug(t *testing.T) {
	f := newFixture(t)
	h, _ := f.login(auth("secret"))
	for _, plug := range []protocol.Plug{{Device: protocol.PlugProcessors, Amount: 4}, {Device: protocol.PlugMemory, Amount: 1 << 30}} {
		if in := h.call(uint64(2+len(plug.Device)), plug); in.Error != nil {
			t.Errorf("%+v: %v", plug, in.Error)
		}
	}
	if f.machine.processors != 4 || f.machine.memory != 1<<30 {
		t.Errorf("machine %+v", f.machine)
	}
	in := h.call(90, protocol.Plug{Device: protocol.PlugDisk, Serial: "disk-1"})
	if want := (protocol.BlockDevice{Major: 8, Minor: 16}); in.Message != want || !slices.Equal(f.machine.disks, []string{"disk-1"}) {
		t.Errorf("disk: %+v, machine %+v", in, f.machine)
	}
	if in := h.call(99, protocol.Plug{Device: "plug"}); !errdefs.IsNotImplemented(in.Error) {
		t.Errorf("something unknown: %+v", in)
	}
}

// fakeVolumes is a set of names.
type fakeVolumes map[string]bool

func (v fakeVolumes) Mount(m protocol.Mount) error {
	v[m.Target] = true
	return nil
}

func (v fakeVolumes) Unmount(m protocol.Unmount) error {
	if !v[m.Target] {
		return errdefs.ErrNotFound
	}
	delete(v, m.Target)
	return nil
}

func TestVolumes(t *testing.T) {
	f := newFixture(t)
	h, _ := f.login(auth("secret"))
	if in := h.call(2, protocol.Mount{Source: "tmpfs", Target: "/a", FSType: "tmpfs"}); in.Error != nil || !f.volumes["/a"] {
		t.Errorf("mount: %+v, %v", in, f.volumes)
	}
	if in := h.call(3, protocol.Unmount{Target: "/b"}); !errdefs.IsNotFound(in.Error) {
		t.Errorf("unmount of nothing: %+v", in)
	}
	if in := h.call(4, protocol.Unmount{Target: "/a"}); in.Error != nil || f.volumes["/a"] {
		t.Errorf("unmount: %+v, %v", in, f.volumes)
	}
}

// TestPod has a pod that cannot be made: the host hears why.
func TestPod(t *testing.T) {
	f := newFixture(t)
	h, _ := f.login(auth("secret"))
	in := h.call(2, protocol.Pod{Sysctls: []protocol.Pair{{Name: "vm.swappiness", Value: "1"}}})
	if !errdefs.IsInvalidArgument(in.Error) || !strings.Contains(in.Error.Error(), "vm.swappiness") {
		t.Errorf("got %+v", in)
	}
}

func TestExitsAreSentUntilAcknowledged(t *testing.T) {
	f := newFixture(t)
	h, _ := f.login(auth("secret"))
	report := f.agent.processes
	report.StreamEnd(7, "stdout", 12)
	report.OOM("c")
	report.Exit(protocol.Exit{RequestID: 7, Reason: "exited"})
	want := []protocol.GuestMessage{
		protocol.StreamEnd{RequestID: 7, Stream: "stdout", Bytes: 12, Sequence: 1},
		protocol.Event{Kind: "oom", ContainerID: "c"},
		protocol.Exit{RequestID: 7, Reason: "exited", Sequence: 2},
	}
	for _, m := range want {
		if in := h.read(); in.Message != m {
			t.Errorf("heard %+v, want %+v", in.Message, m)
		}
	}
	h.conn.Close()
	h, _ = f.login(auth("secret"))
	for _, m := range []protocol.GuestMessage{want[0], want[2]} {
		if in := h.read(); in.Message != m {
			t.Errorf("heard again %+v, want %+v", in.Message, m)
		}
	}
	if in := h.call(2, protocol.Ack{Sequence: 1}); in.Error != nil {
		t.Error(in.Error)
	}
	h.conn.Close()
	again := auth("secret")
	again.Ack = 2
	h, hello := f.login(again)
	if hello.LastAck != 1 {
		t.Errorf("last ack %d, want 1", hello.LastAck)
	}
	report.Exit(protocol.Exit{RequestID: 8})
	if in := h.read(); in.Message != (protocol.Exit{RequestID: 8, Sequence: 3}) {
		t.Errorf("heard %+v", in.Message)
	}
}

func TestStop(t *testing.T) {
	f := newFixture(t)
	h, _ := f.login(auth("secret"))
	if in := h.call(2, protocol.Stop{TimeoutMS: 100}); in.Error != nil {
		t.Fatal(in.Error)
	}
	if in := h.read(); in.Message != (protocol.Bye{Reason: "stopped"}) {
		t.Errorf("heard %+v", in.Message)
	}
	h.conn.Close()
	if err := <-f.ended; err != nil {
		t.Errorf("the agent ended with %v", err)
	}
}

// TestShutdown ends the agent from inside, once, and the containers of others.
func TestShutdown(t *testing.T) {
	f := newFixture(t)
	others := container.NewSet(container.Options{Logger: slog.New(slog.DiscardHandler), Share: f.share})
	f.agent.AlsoStop(others)
	h, _ := f.login(auth("secret"))
	f.agent.Shutdown()
	f.agent.bye() // as a stop of the host's at the same time would
	if in := h.read(); in.Message != (protocol.Bye{Reason: "stopped"}) {
		t.Errorf("heard %+v", in.Message)
	}
	h.conn.Close()
	if err := others.Prepare(t.Context(), protocol.Prepare{ContainerID: "c", Rootfs: "c/rootfs"}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a container of another set can be made: %v", err)
	}
	if err := <-f.ended; err != nil {
		t.Errorf("the agent has ended: %v", err)
	}
}

func TestAnswersRecordIsBounded(t *testing.T) {
	a := newAnswers()
	of := func(id uint64) request {
		return request{incoming: protocol.Incoming[protocol.HostMessage]{CallID: id}}
	}
	for id := uint64(1); id <= 2*maxAnswers; id++ {
		if fresh, _ := a.begin(of(id), nil); !fresh {
			t.Fatalf("call %d is not fresh", id)
		}
		if fresh, known := a.begin(of(id), nil); fresh || known != nil {
			t.Fatalf("call %d is not under way", id)
		}
		a.end(id, answer{message: protocol.OK{}})
	}
	if len(a.given) != maxAnswers || len(a.order) != maxAnswers || len(a.underWay) != 0 {
		t.Errorf("%d answers, %d in order, %d under way", len(a.given), len(a.order), len(a.underWay))
	}
	if _, known := a.begin(of(2*maxAnswers), nil); known == nil {
		t.Error("the last answer is forgotten")
	}
	if _, known := a.begin(of(0), nil); known == nil || known.err == nil {
		t.Error("call id 0 is taken")
	}
}

// TestRehearsal has a session with a host that is only a script.
func TestRehearsal(t *testing.T) {
	f := newFixture(t)
	understudy := New(Options{Version: "test", Machine: f.machine, Logger: slog.New(slog.DiscardHandler)})
	for range 2 {
		rehearse, err := understudy.PrepareRehearsal(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := rehearse(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if f.machine.entropy == "" {
		t.Errorf("the machine was not told: %+v", f.machine)
	}
	understudy.token = "another"
	rehearse, err := understudy.PrepareRehearsal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := rehearse(t.Context()); !errors.Is(err, errdefs.ErrUnauthenticated) {
		t.Errorf("with a host that is not let in: %v", err)
	}
}
