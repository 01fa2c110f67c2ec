package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
)

// pipes is a listener whose connections a test makes.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if conn, ok := <-p; ok {
		return conn, nil
	}
	return nil, net.ErrClosed
}
func (p pipes) Close() error   { close(p); return nil }
func (p pipes) Addr() net.Addr { return nil }

// serveFurther serves further sessions, and returns how to begin one.
func (f *fixture) serveFurther() func() host {
	listener := make(pipes)
	ended := make(chan error)
	ctx, cancel := context.WithCancel(f.t.Context())
	go func() { ended <- f.agent.ServeFurther(ctx, listener) }()
	f.t.Cleanup(func() {
		cancel()
		listener.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			f.t.Error(err)
		}
	})
	return func() host {
		ours, theirs := net.Pipe()
		listener <- theirs
		h := host{f.t, protocol.NewHostConn(ours)}
		f.t.Cleanup(func() { h.conn.Close() })
		return h
	}
}

// further is the handshake of a further session.
func (h host) further(name string) host {
	h.t.Helper()
	h.read() // hello
	first := auth("secret")
	first.Session = name
	if in := h.call(1, first); in.Error != nil {
		h.t.Fatal(in.Error)
	}
	h.conn.Authenticated()
	if in := h.read(); in.Message != (protocol.Ready{}) {
		h.t.Fatalf("after auth: %+v", in)
	}
	return h
}

func TestFurtherSessionsRefused(t *testing.T) {
	f := newFixture(t)
	dial := f.serveFurther()
	refused := func(name string, first protocol.Auth, want error) {
		t.Helper()
		h := dial()
		h.read() // hello
		if in := h.call(1, first); in.Error == nil || !errors.Is(in.Error, want) {
			t.Errorf("%s: %+v", name, in)
		}
	}
	refused("before the sandbox's own session", auth("secret"), errdefs.ErrUnauthenticated)
	f.login(auth("secret"))
	refused("wrong token", auth("Secret"), errdefs.ErrUnauthenticated)
	long := auth("secret")
	long.Session = strings.Repeat("x", protocol.MaxSessionName+1)
	refused("long name", long, errdefs.ErrInvalidArgument)
}

func TestFurtherSessionMayNotChangeTheSandbox(t *testing.T) {
	f := newFixture(t)
	dial := f.serveFurther()
	f.login(auth("secret"))
	h := dial().further("")
	for i, m := range []protocol.HostMessage{
		protocol.Prepare{ContainerID: "c"}, protocol.Run{RequestID: protocol.FurtherRequest | 1}, protocol.Stop{}, protocol.SetClock{},
		protocol.Remove{ContainerID: "c"}, protocol.Data{Name: "x"},
	} {
		if in := h.call(uint64(2+i), m); !errdefs.IsPermissionDenied(in.Error) {
			t.Errorf("%T: %+v", m, in)
		}
	}
	if in := h.call(20, protocol.Exec{RequestID: 1, ContainerID: "c"}); !errdefs.IsInvalidArgument(in.Error) {
		t.Errorf("exec with a request id of the sandbox's own: %+v", in)
	}
	if in := h.call(21, protocol.Exec{RequestID: protocol.FurtherRequest | 1, ContainerID: "c"}); in.Error == nil {
		t.Errorf("exec in no container: %+v", in)
	}
}

// TestExitsGoWhereTheyBelong has two sessions each start a process.
func TestExitsGoWhereTheyBelong(t *testing.T) {
	f := newFixture(t)
	dial := f.serveFurther()
	own, _ := f.login(auth("secret"))
	named := dial().further("name")

	f.agent.further.mu.Lock()
	session := f.agent.further.sessions["name"]
	f.agent.further.mu.Unlock()
	f.agent.processes.started(1, f.agent.own)
	f.agent.processes.started(2, session)
	f.agent.processes.Exit(protocol.Exit{RequestID: 2, Code: 2})
	if in := named.read(); in.Message != (protocol.Exit{RequestID: 2, Code: 2, Sequence: 1}) {
		t.Errorf("heard %+v", in.Message)
	}

	// The other one's process is waited for.
	named.send(9, protocol.Wait{RequestID: 1})
	f.agent.processes.Exit(protocol.Exit{RequestID: 1, Code: 1})
	if in := named.read(); in.CallID != 9 || in.Message != (protocol.Exit{RequestID: 1, Code: 1}) {
		t.Errorf("waited for %+v", in)
	}
	if in := own.read(); in.Message != (protocol.Exit{RequestID: 1, Code: 1, Sequence: 1}) {
		t.Errorf("the own session heard %+v", in.Message)
	}

	// What was not acknowledged is told again, also what came meanwhile; an output that ends after its process's exit, too.
	named.conn.Close()
	f.agent.processes.StreamEnd(2, "stdout", 3)
	again := dial().further("name")
	for _, want := range []protocol.GuestMessage{
		protocol.Exit{RequestID: 2, Code: 2, Sequence: 1}, protocol.StreamEnd{RequestID: 2, Stream: "stdout", Bytes: 3, Sequence: 2},
	} {
		if in := again.read(); in.Message != want {
			t.Errorf("heard %+v, want %+v", in.Message, want)
		}
	}
	if in := again.call(10, protocol.Wait{RequestID: 2}); in.Message != (protocol.Exit{RequestID: 2, Code: 2}) {
		t.Errorf("wait for what has ended: %+v", in)
	}
	if in := again.call(11, protocol.Wait{RequestID: 3}); !errdefs.IsNotFound(in.Error) {
		t.Errorf("wait for nobody: %+v", in)
	}

	// A session that says bye is forgotten.
	if err := again.conn.WriteNotification(t.Context(), 0, protocol.Bye{}); err != nil {
		t.Fatal(err)
	}
	if _, err := again.conn.Read(); err != io.EOF {
		t.Errorf("after bye: %v", err)
	}
	h := dial().further("name")
	if in := h.call(12, protocol.Cancel{CallID: 1}); !errdefs.IsNotFound(in.Error) {
		t.Errorf("cancel of nothing: %+v", in)
	}
}

func TestNewConnectionReplacesTheBrokenOne(t *testing.T) {
	f := newFixture(t)
	dial := f.serveFurther()
	f.login(auth("secret"))
	first := dial().further("name")
	second := dial().further("name")
	if _, err := first.conn.Read(); err != io.EOF {
		t.Errorf("the first connection: %v, want its end", err)
	}
	if in := second.call(2, protocol.Ack{}); in.Error != nil {
		t.Error(in.Error)
	}
}

func TestCancel(t *testing.T) {
	f := newFixture(t)
	dial := f.serveFurther()
	h, _ := f.login(auth("secret"))
	f.agent.processes.started(1, f.agent.own)
	h.send(2, protocol.Wait{RequestID: 1})
	if in := dial().further("").call(3, protocol.Cancel{CallID: 2}); !errdefs.IsNotFound(in.Error) {
		t.Errorf("cancel of another session's command: %+v", in)
	}
	h.send(3, protocol.Cancel{CallID: 2})
	for range 2 {
		switch in := h.read(); in.CallID {
		case 2:
			if in.Error == nil || in.Error.Code != protocol.CodeCancelled {
				t.Errorf("the cancelled command: %+v", in)
			}
		case 3:
			if in.Error != nil {
				t.Errorf("cancel: %v", in.Error)
			}
		}
	}
	if in := h.call(2, protocol.Wait{RequestID: 1}); in.Error == nil || in.Error.Code != protocol.CodeCancelled {
		t.Errorf("the cancelled command, asked again: %+v", in)
	}
}

// TestProgress has a command take long.
func TestProgress(t *testing.T) {
	f := newFixture(t)
	h, _ := f.login(auth("secret"))
	release := make(chan struct{})
	f.machine.memoryDelay = release
	h.send(2, protocol.Plug{Device: protocol.PlugMemory, Amount: 1})
	in := h.read()
	if m, ok := in.Message.(protocol.Progress); !ok || m.CallID != 2 || !strings.HasPrefix(m.Message, "plug: under way for ") {
		t.Errorf("heard %+v", in)
	}
	close(release)
	for in.Type != protocol.Response {
		in = h.read()
	}
	if in.CallID != 2 || in.Error != nil {
		t.Errorf("answer %+v", in)
	}
}

func TestData(t *testing.T) {
	f := newFixture(t)
	h, _ := f.login(auth("secret"))
	type result struct {
		content []byte
		err     error
	}
	ask := func(name string) <-chan result {
		got := make(chan result, 1)
		go func() {
			content, err := f.agent.Data(t.Context(), name)
			got <- result{content, err}
		}()
		return got
	}
	given, again := ask("a"), ask("a")
	for range 2 {
		if in := h.read(); in.Message != (protocol.DataRequest{Name: "a"}) {
			t.Fatalf("heard %+v", in)
		}
	}
	h.call(2, protocol.Data{Name: "a", Content: []byte("text")})
	for _, got := range []<-chan result{given, again} {
		if r := <-got; string(r.content) != "text" || r.err != nil {
			t.Errorf("got %+v", r)
		}
	}
	refused := ask("b")
	h.read()
	why := "no"
	h.call(3, protocol.Data{Name: "b", Error: &why})
	if r := <-refused; !errdefs.IsNotFound(r.err) {
		t.Errorf("got %+v", r)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := f.agent.Data(ctx, "c"); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
