package requests

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/agent/agenttest"
	"github.com/limpet-run/limpet/guest/agent/container"
	"github.com/limpet-run/limpet/guest/protocol"
)

// guest is a server of machine requests with a socket.
type guest struct {
	t      *testing.T
	server *Server
	socket string
	images fakeImages
	log    syncBuffer
	down   chan struct{} // closed by a shutdown
}

func newGuest(t *testing.T) *guest {
	t.Helper()
	agenttest.NeedRoot(t)
	jobs := NewJobs()
	jobs.last = uint64(rand.Uint32()) * 1000 // all guests on a machine that runs tests have one hierarchy of control groups
	g := &guest{t: t, socket: filepath.Join(t.TempDir(), "agent.sock"), down: make(chan struct{})}
	logger := slog.New(protocol.LogTraces(slog.NewTextHandler(&g.log, nil)))
	g.server = New(Options{
		Containers: container.NewSet(container.Options{
			Reaper: agenttest.Reaper(), Streams: jobs, Reporter: jobs, Logger: logger, Dir: t.TempDir(), CgroupRoot: "/sys/fs/cgroup",
			Share: t.TempDir(), Overlays: t.TempDir(), MountShare: func(context.Context) error { return nil }, Unmount: func() error { return nil },
			Crun: filepath.Join(os.Getenv("LIMPET_BUILD"), "guest", "crun"),
		}),
		Jobs: jobs, Images: &g.images, Tools: func(context.Context) error { return nil }, Busybox: "/bin/busybox",
		Files: func(context.Context) {}, Shutdown: func() { close(g.down) }, Logger: logger,
	})
	g.server.Roots = func(id string) (*os.File, error) { return nil, fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound) }
	listener, err := Listen(g.socket)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() { defer close(served); _ = g.server.Serve(listener) }()
	groups := fmt.Sprintf("/sys/fs/cgroup/limpet-_*-%d???", jobs.last/1000)
	t.Cleanup(func() {
		listener.Close()
		<-served
		g.await("the control groups are removed", func() bool {
			left, err := filepath.Glob(groups)
			return err == nil && len(left) == 0
		})
	})
	return g
}

// syncBuffer is written by a server and read by a test.
type syncBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

// await waits until something is true that no event tells of.
func (g *guest) await(what string, is func() bool) {
	g.t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			g.t.Fatalf("it does not come true that %s", what)
		}
	}
}

// client is one that knows nothing but the wire.
type client struct {
	t *testing.T
	net.Conn
}

func (g *guest) dial() *client {
	g.t.Helper()
	conn, err := net.Dial("unix", g.socket)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		g.t.Fatal(err)
	}
	return &client{g.t, conn}
}

// say sends JSON.
func (c *client) say(message string) {
	c.t.Helper()
	if err := protocol.WriteMessage(c, []byte(message)); err != nil {
		c.t.Fatal(err)
	}
}

// hear waits for an answer.
func (c *client) hear() protocol.AgentResponse {
	c.t.Helper()
	return c.hearEnvelope().Body
}

func (c *client) hearEnvelope() protocol.Envelope[protocol.AgentResponse] {
	c.t.Helper()
	message, err := protocol.ReadMessage(c)
	if err != nil {
		c.t.Fatal(err)
	}
	answer, err := protocol.AgentResponses.DecodeEnvelope(message)
	if err != nil {
		c.t.Fatal(err)
	}
	return answer
}

// ask sends JSON and waits for an answer.
func (c *client) ask(message string) protocol.AgentResponse {
	c.t.Helper()
	c.say(message)
	return c.hear()
}

// send sends a request.
func (c *client) send(request protocol.AgentRequest) protocol.AgentResponse {
	c.t.Helper()
	message, err := protocol.AgentRequests.Encode(request)
	if err != nil {
		c.t.Fatal(err)
	}
	return c.ask(string(message))
}

// wantError wants an answer to be an error with that code.
func wantError(t *testing.T, answer protocol.AgentResponse, code protocol.Code) {
	t.Helper()
	e, ok := answer.(protocol.ErrorResponse)
	if !ok || e.Code == nil || protocol.Code(*e.Code) != code {
		t.Errorf("answer %+v, want error %s", answer, code)
	} else if e.Message == "" {
		t.Errorf("error %s without a message", code)
	}
}

// show is an answer for a person.
func show(answer protocol.AgentResponse) string {
	message, err := protocol.AgentResponses.Encode(answer)
	return fmt.Sprintf("%.1000s %v", message, err)
}

// isCompleted tells whether an answer is a command's result with that code and output.
func isCompleted(answer protocol.AgentResponse, code int32, stdout string) bool {
	completed, ok := answer.(protocol.CompletedResponse)
	return ok && completed.ExitCode == code && string(completed.Stdout) == stdout
}

// fakeImages answers every request about images.
type fakeImages struct {
	mu      sync.Mutex
	answers map[string][]protocol.AgentResponse // by method
	asked   []protocol.AgentRequest
}

func (f *fakeImages) Do(ctx context.Context, request protocol.Envelope[protocol.AgentRequest], answer func(protocol.AgentResponse) error,
) error {
	f.mu.Lock()
	f.asked = append(f.asked, request.Body)
	answers := f.answers[protocol.AgentRequests.Name(request.Body)]
	f.mu.Unlock()
	for _, a := range answers {
		if err := answer(a); err != nil {
			return err
		}
	}
	if len(answers) == 0 {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	return nil
}
