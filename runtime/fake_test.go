package runtime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/client"
	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/hypervisor/vsock"
	"github.com/limpet-run/limpet/runtime/anchor"
	"github.com/limpet-run/limpet/runtime/config"
)

func TestMain(m *testing.M) {
	anchor.MainIfAsked()
	os.Exit(m.Run())
}

// testTimeout is when a test that waits for something gives up.
const testTimeout = 20 * time.Second

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounts and anchors need root")
	}
}

// fakeMachine is a machine that ends when it is told to.
type fakeMachine struct {
	once    sync.Once
	ended   chan struct{}
	why     error
	console string
	// plug, if set, is what plugging comes to.
	plug func(hypervisor.Device) error
	// unplugged are the devices that were taken away.
	unplugged []string
	share     string // on the host, where mounts are attached
	added     []int  // what ResizeMemory was asked for
	refuse    error  // of ResizeMemory
	// accelerator is what it claims to run under.
	accelerator hypervisor.Accelerator
}

func newFakeMachine() *fakeMachine { return &fakeMachine{ended: make(chan struct{})} }

func (m *fakeMachine) end(why error) {
	m.once.Do(func() {
		m.why = why
		close(m.ended)
	})
}

func (m *fakeMachine) Plug(_ context.Context, device hypervisor.Device) error {
	if m.plug == nil {
		return nil
	}
	return m.plug(device)
}

func (m *fakeMachine) Unplug(ctx context.Context, id string, letGo func(context.Context) error) error {
	if letGo != nil {
		if err := letGo(ctx); err != nil {
			return err
		}
	}
	m.unplugged = append(m.unplugged, id)
	return nil
}

// AttachMount attaches it on the host, where tests look at it.
func (m *fakeMachine) AttachMount(_, path string, tree *os.File) error {
	return unix.MoveMount(int(tree.Fd()), "", unix.AT_FDCWD, filepath.Join(m.share, path), unix.MOVE_MOUNT_F_EMPTY_PATH)
}

func (m *fakeMachine) Wait(context.Context) error      { <-m.ended; return m.why }
func (m *fakeMachine) Stop(ctx context.Context) error  { m.end(nil); return ctx.Err() }
func (m *fakeMachine) Processes() []hypervisor.Process { return nil }
func (m *fakeMachine) Console() string                 { return m.console }

// ConsoleSince has one character more each time.
func (m *fakeMachine) ConsoleSince(offset int64) (string, int64, <-chan struct{}) {
	more := make(chan struct{})
	if int(offset) < len(m.console) {
		close(more)
	}
	return m.console[offset:min(int(offset)+1, len(m.console))], min(offset+1, int64(len(m.console))), more
}

func (m *fakeMachine) ResizeMemory(_ context.Context, added int) error {
	if m.refuse != nil {
		return m.refuse
	}
	m.added = append(m.added, added)
	return nil
}

func (m *fakeMachine) Accelerator() hypervisor.Accelerator { return m.accelerator }

// fakeGuest is an agent without a machine.
type fakeGuest struct {
	listening  uint16 // see OpenListeners
	clockDelay time.Duration
	ready      chan struct{} // closed when the agent is ready
	closed     chan struct{}
	once       sync.Once
	// answer, if set, may answer a message; nil, nil leaves it to the fake.
	answer func(context.Context, protocol.HostMessage) (protocol.GuestMessage, error)

	mu       sync.Mutex
	messages []protocol.HostMessage
	streams  map[protocol.Token]net.Conn // the guest's ends
	opened   chan struct{}               // replaced when a stream was opened
	ports    map[uint32]*fakeListener    // of the host's
}

func newFakeGuest() *fakeGuest {
	g := &fakeGuest{
		ready: make(chan struct{}), closed: make(chan struct{}), streams: map[protocol.Token]net.Conn{}, opened: make(chan struct{}),
		ports: map[uint32]*fakeListener{},
	}
	close(g.ready)
	return g
}

func (g *fakeGuest) WaitReady(ctx context.Context) (protocol.Hello, error) {
	select {
	case <-g.ready:
		return protocol.Hello{}, nil
	case <-ctx.Done():
		return protocol.Hello{}, ctx.Err()
	case <-g.closed:
		return protocol.Hello{}, errdefs.ErrUnavailable
	}
}

// Greeted is long ago.
func (g *fakeGuest) Greeted() time.Time { return time.Time{} }

// ClockDelay is as on a host that is not busy.
func (g *fakeGuest) ClockDelay() time.Duration { return g.clockDelay }

// Listen is a listener that nobody dials but a test, by dialHost.
func (g *fakeGuest) Listen(port uint32) (vsock.Listener, error) {
	listener := &fakeListener{port: port, conns: make(chan net.Conn), closed: make(chan struct{})}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ports[port] = listener
	return listener, nil
}

// dialHost connects to a port of the host's as the guest does.
func (g *fakeGuest) dialHost(port uint32) (net.Conn, error) {
	g.mu.Lock()
	listener := g.ports[port]
	g.mu.Unlock()
	if listener == nil {
		return nil, unix.ECONNREFUSED
	}
	guest, host := net.Pipe()
	select {
	case listener.conns <- host:
		return guest, nil
	case <-listener.closed:
		return nil, unix.ECONNREFUSED
	}
}

type fakeListener struct {
	port   uint32
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *fakeListener) Port() uint32 { return l.port }

func (l *fakeListener) Accept(ctx context.Context) (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *fakeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (g *fakeGuest) Call(ctx context.Context, message protocol.HostMessage) (protocol.GuestMessage, error) {
	g.mu.Lock()
	g.messages = append(g.messages, message)
	g.mu.Unlock()
	if g.answer != nil {
		if answer, err := g.answer(ctx, message); answer != nil || err != nil {
			return answer, err
		}
	}
	switch message := message.(type) {
	case protocol.Run:
		return protocol.Started{RequestID: message.RequestID}, nil
	case protocol.Exec:
		return protocol.Started{RequestID: message.RequestID}, nil
	}
	return protocol.OK{}, nil
}

func (g *fakeGuest) OpenStream(_ context.Context, token protocol.Token) (net.Conn, error) {
	host, guest := net.Pipe()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.streams[token] = guest
	close(g.opened)
	g.opened = make(chan struct{})
	return host, nil
}

// OpenOutput is OpenStream.
func (g *fakeGuest) OpenOutput(ctx context.Context, token protocol.Token) (client.OutputStream, error) {
	return g.OpenStream(ctx, token)
}

// OpenInput is OpenStream, whose end is that of the connection.
func (g *fakeGuest) OpenInput(ctx context.Context, token protocol.Token) (client.InputStream, error) {
	conn, err := g.OpenStream(ctx, token)
	return fakeInput{conn}, err
}

type fakeInput struct{ net.Conn }

func (i fakeInput) CloseWrite() error { return i.Close() }

// DialPort connects to somebody who says which port it is.
func (g *fakeGuest) DialPort(_ context.Context, port uint16) (protocol.HalfCloser, error) {
	return sayer(fmt.Sprintf("port %d", port)), nil
}

// DialUnix connects to somebody who says which socket it is.
func (g *fakeGuest) DialUnix(_ context.Context, path string) (protocol.HalfCloser, error) {
	return sayer("socket " + path), nil
}

// DialContainerd connects to somebody who says that he is one.
func (g *fakeGuest) DialContainerd(context.Context) (protocol.HalfCloser, error) {
	return sayer("containerd"), nil
}

// OpenFIFO has somebody say that he is an output.
func (g *fakeGuest) OpenFIFO(context.Context) (io.ReadCloser, error) { return sayer("output"), nil }

// Dial connects to somebody who says which port it is.
func (g *fakeGuest) Dial(_ context.Context, port uint32) (net.Conn, error) {
	host, guest := net.Pipe()
	go func() {
		fmt.Fprintf(guest, "vsock port %d", port)
		_ = guest.Close()
	}()
	return host, nil
}

// sayer says something, then only listens.
func sayer(text string) protocol.HalfCloser {
	host, guest := net.Pipe()
	go func() {
		duplex := protocol.NewDuplex(guest, guest)
		_, _ = io.WriteString(duplex, text)
		_ = duplex.CloseWrite()
		_, _ = io.Copy(io.Discard, duplex)
	}()
	return protocol.NewDuplex(host, host)
}

// OpenListeners tells of the port in listening, if it is not 0.
func (g *fakeGuest) OpenListeners(context.Context) (io.ReadCloser, error) {
	host, guest := net.Pipe()
	go func() {
		var listeners []protocol.Listener
		if g.listening != 0 {
			listeners = append(listeners, protocol.Listener{Port: g.listening})
		}
		_ = protocol.WriteListeners(guest, listeners)
	}()
	return host, nil
}

func (g *fakeGuest) Done() <-chan struct{} { return g.closed }

func (g *fakeGuest) Close() error {
	g.once.Do(func() { close(g.closed) })
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, stream := range g.streams {
		stream.Close()
	}
	return nil
}

// stream returns the guest's end of a stream once the host has opened it.
func (g *fakeGuest) stream(t *testing.T, token protocol.Token) net.Conn {
	t.Helper()
	deadline := time.After(testTimeout)
	for {
		g.mu.Lock()
		stream, opened := g.streams[token], g.opened
		g.mu.Unlock()
		if stream != nil {
			return stream
		}
		select {
		case <-opened:
		case <-deadline:
			t.Fatal("the stream was not opened")
		}
	}
}

// got returns the messages of one kind that the guest was sent.
func got[T protocol.HostMessage](g *fakeGuest) []T {
	g.mu.Lock()
	defer g.mu.Unlock()
	var found []T
	for _, message := range g.messages {
		if message, ok := message.(T); ok {
			found = append(found, message)
		}
	}
	return found
}

// buffer is an end of a stream in memory.
type buffer struct {
	mu     sync.Mutex
	bytes  bytes.Buffer
	closed chan struct{}
	once   sync.Once
}

func newBuffer() *buffer { return &buffer{closed: make(chan struct{})} }

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bytes.Write(p)
}

func (b *buffer) Close() error {
	b.once.Do(func() { close(b.closed) })
	return nil
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bytes.String()
}

// wait waits for a channel to be closed.
func wait(t *testing.T, channel <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-channel:
	case <-time.After(testTimeout):
		t.Fatal("timeout: " + what)
	}
}

// world is a sandbox with fakes below it.
type world struct {
	*Sandbox
	fakeGuest   *fakeGuest
	fakeMachine *fakeMachine
	events      events
	plan        machinePlan
	bundle      string
	state       string
	oom         []string
}

// OOM implements Observer.
func (w *world) OOM(id string) { w.oom = append(w.oom, id) }

func (w *world) options(t *testing.T) SandboxOptions {
	configuration := config.Default()
	configuration.StateDir = w.state
	return SandboxOptions{
		ID: "box", Namespace: "test", Bundle: w.bundle, Config: configuration, Observer: w,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

func (w *world) platform(_ context.Context, plan machinePlan, undo *undo) (started, error) {
	w.events, w.plan = plan.events, plan
	w.fakeMachine.share = plan.dir.share()
	undo.push("stop the machine", w.fakeMachine.Stop)
	undo.push("close the session", func(context.Context) error { return w.fakeGuest.Close() })
	return started{machine: w.fakeMachine, guest: w.fakeGuest, frame: plan.frame}, nil
}

// newWorld makes the fakes, and checks at the test's end that nothing is left on the host.
func newWorld(t *testing.T) *world {
	t.Helper()
	needRoot(t)
	state, err := os.MkdirTemp("", "limpet") // t.TempDir is too long for a state_dir
	if err != nil {
		t.Fatal(err)
	}
	w := &world{fakeGuest: newFakeGuest(), fakeMachine: newFakeMachine(), state: state, bundle: writeBundle(t, nil)}
	t.Cleanup(func() {
		if err := os.Remove(filepath.Join(state, turnsFile)); err != nil && !errors.Is(err, os.ErrNotExist) { // it stays for the next sandbox
			t.Error(err)
		}
		nothingLeft(t, state)
		if err := os.Remove(state); err != nil {
			t.Error(err)
		}
	})
	return w
}

// empty checks that a directory is empty.
func empty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left in %s: %v, %v", dir, left, err)
	}
}

// nothingLeft checks that a directory is empty and that nothing is mounted on it.
func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	empty(t, dir)
	if mounts, err := mountsBelow(dir); err != nil || len(mounts) > 0 {
		t.Errorf("still mounted: %v, %v", mounts, err)
	}
}

// newTestSandbox makes a running sandbox, stopped at the test's end.
func newTestSandbox(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	sandbox, err := newSandbox(t.Context(), w.options(t), w.platform)
	if err != nil {
		t.Fatal(err)
	}
	w.Sandbox = sandbox
	t.Cleanup(func() {
		if err := sandbox.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return w
}

// writeBundle makes a bundle with a root directory.
func writeBundle(t *testing.T, change func(*specs.Spec)) string {
	t.Helper()
	spec := &specs.Spec{
		Version: specs.Version,
		Process: &specs.Process{Args: []string{"/proc/self/exe"}, Cwd: "/"}, // a program that no root file system needs to have
		Mounts:  []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}},
		Root:    &specs.Root{Path: "rootfs"},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.MountNamespace}, {Type: specs.NetworkNamespace},
		}},
	}
	if change != nil {
		change(spec)
	}
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	bundle := t.TempDir()
	err = errors.Join(os.WriteFile(filepath.Join(bundle, "config.json"), text, 0o600), os.Mkdir(filepath.Join(bundle, "rootfs"), 0o755))
	if err != nil {
		t.Fatal(err)
	}
	return bundle
}

// create makes a container in the sandbox.
func (w *world) create(t *testing.T, ends IO) *Container {
	t.Helper()
	container, err := w.CreateContainer(t.Context(), ContainerOptions{ID: "c1", Bundle: w.bundle, IO: ends})
	if err != nil {
		t.Fatal(err)
	}
	return container
}

// run makes a container and starts its init.
func (w *world) run(t *testing.T, ends IO) *Container {
	t.Helper()
	container := w.create(t, ends)
	if err := container.Init().Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return container
}

// exit lets the agent report the end of a process.
func (w *world) exit(p *Process, code int32) {
	w.events.Exit(protocol.Exit{RequestID: p.request, Code: code, Reason: "exited"})
}

// waitExit waits for the end of a process.
func waitExit(t *testing.T, p *Process) ExitStatus {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	status, err := p.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return status
}

// say writes to the host as the guest does: it does not close.
func say(t *testing.T, stream io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(stream, text); err != nil {
		t.Fatal(err)
	}
}
