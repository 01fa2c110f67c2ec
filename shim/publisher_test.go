package shim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	eventtypes "github.com/containerd/containerd/api/events"
	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

// fakeForwarder is a containerd that takes events, refuses one, or is away a number of times.
type fakeForwarder struct {
	mu     sync.Mutex
	away   int
	refuse string
	block  chan struct{}
	asked  chan struct{} // takes a token for each event that is offered
	got    []string
}

func (f *fakeForwarder) forward(ctx context.Context, envelope *types.Envelope) error {
	if f.block != nil {
		select {
		case <-f.block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if f.asked != nil {
		f.asked <- struct{}{}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.away > 0 {
		f.away--
		return errors.New("connection refused")
	}
	var event eventtypes.TaskOOM
	if err := proto.Unmarshal(envelope.Event.Value, &event); err != nil {
		return err
	}
	if event.ContainerID == f.refuse {
		return status.Error(codes.InvalidArgument, "no")
	}
	if envelope.Topic != "/tasks/oom" || envelope.Namespace != "ns" || envelope.Event.TypeUrl != "containerd.events.TaskOOM" {
		return status.Error(codes.InvalidArgument, fmt.Sprint(envelope))
	}
	f.got = append(f.got, event.ContainerID)
	return nil
}

func (f *fakeForwarder) close() {}

func TestPublisherKeepsOrder(t *testing.T) {
	for name, forwarder := range map[string]*fakeForwarder{
		"there":         {},
		"away at first": {away: 3},
		"refuses one":   {refuse: "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPublisher("ns", forwarder, slog.New(slog.DiscardHandler))
			defer p.close()
			var want []string
			for i := range 100 {
				id := fmt.Sprint(i)
				want = append(want, id)
				p.publish(&eventtypes.TaskOOM{ContainerID: id})
				if i == 50 && forwarder.refuse != "" {
					p.publish(&eventtypes.TaskOOM{ContainerID: forwarder.refuse})
				}
			}
			if err := p.flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(forwarder.got, want) {
				t.Errorf("got %q", forwarder.got)
			}
		})
	}
}

func TestPublisherIsBounded(t *testing.T) {
	forwarder := &fakeForwarder{block: make(chan struct{})}
	p := newPublisher("ns", forwarder, slog.New(slog.DiscardHandler))
	defer p.close()
	for i := range maxQueuedEvents + 10 {
		p.publish(&eventtypes.TaskOOM{ContainerID: fmt.Sprint(i)})
	}
	if len(p.queue) != maxQueuedEvents {
		t.Errorf("%d events are queued", len(p.queue))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.flush(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("flush: %v", err)
	}
	close(forwarder.block)
	if err := p.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if last := forwarder.got[len(forwarder.got)-1]; last != fmt.Sprint(maxQueuedEvents+9) {
		t.Errorf("the newest event was lost: %s", last)
	}
}

// TestPublisherFlushesAtOnce has a containerd that comes back after so long that it is rarely looked for. The shim's end, which it asks
// for, does not lose the last events.
func TestPublisherFlushesAtOnce(t *testing.T) {
	const away = 5
	forwarder := &fakeForwarder{away: away, asked: make(chan struct{}, away+1)}
	p := newPublisher("ns", forwarder, slog.New(slog.DiscardHandler))
	defer p.close()
	p.publish(&eventtypes.TaskOOM{ContainerID: "c1"})
	for range away {
		<-forwarder.asked // after the last one it waits 0.8 s
	}
	ctx, cancel := context.WithTimeout(t.Context(), flushTimeout)
	defer cancel()
	if err := p.flush(ctx); err != nil {
		t.Error(err)
	}
}

// eventsServer is the service of containerd that takes events.
type eventsServer struct {
	mu  sync.Mutex
	got []string
}

// life is the service from a start to the next crash, with which the calls under way are gone.
type life struct {
	*eventsServer
	over bool
}

func (l *life) Forward(_ context.Context, request *eventsapi.ForwardRequest) (*emptypb.Empty, error) {
	var event eventtypes.TaskOOM
	if err := proto.Unmarshal(request.Envelope.Event.Value, &event); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return nil, errgrpc.ToGRPC(errdefs.ErrUnavailable) // should the answer still go out
	}
	l.got = append(l.got, event.ContainerID)
	return nothing, nil
}

// serve serves on the socket until what it returns is called, which breaks every connection.
func (s *eventsServer) serve(t *testing.T, path string) (crash func()) {
	t.Helper()
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	life := &life{eventsServer: s}
	eventsapi.RegisterTTRPCEventsService(server, life)
	ended := make(chan struct{})
	go func() {
		_ = server.Serve(context.Background(), listener) // it ends by being closed
		close(ended)
	}()
	return func() {
		s.mu.Lock()
		life.over = true
		s.mu.Unlock()
		server.Close()
		<-ended
	}
}

// TestPublisherOverRestarts publishes to a containerd that crashes again and again. Each event comes, in order; only one whose answer a
// crash has swallowed comes twice, as nobody can know that it came.
func TestPublisherOverRestarts(t *testing.T) {
	const restarts, events = 5, 2000
	path := filepath.Join(t.TempDir(), "socket")
	p := newPublisher("ns", newContainerdForwarder(path), slog.New(slog.DiscardHandler))
	defer p.close()
	server := &eventsServer{}
	var want []string
	for i := range restarts {
		crash := server.serve(t, path)
		for j := range events / restarts {
			id := fmt.Sprint(i, "-", j)
			want = append(want, id)
			p.publish(&eventtypes.TaskOOM{ContainerID: id})
		}
		crash()
	}
	defer server.serve(t, path)()
	if err := p.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	server.mu.Lock()
	defer server.mu.Unlock()
	if twice := len(server.got) - len(want); twice > restarts || !slices.Equal(slices.Compact(server.got), want) {
		t.Errorf("%d events of %d came, %d of them twice", len(server.got), len(want), twice)
	}
}

func TestPublisherClosesWhileContainerdIsAway(t *testing.T) {
	p := newPublisher("ns", newContainerdForwarder("unix:///nowhere/containerd.sock.ttrpc"), slog.New(slog.DiscardHandler))
	p.publish(&eventtypes.TaskOOM{ContainerID: "c1"})
	p.close()
	p.publish(&eventtypes.TaskOOM{ContainerID: "c1"}) // nothing comes of it, and no panic
}

// A containerd that takes the connection and says nothing is given up after a while, and tried again.
func TestPublisherOutlastsAHungContainerd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		forwarder := &fakeForwarder{block: make(chan struct{})}
		p := newPublisher("ns", forwarder, slog.New(slog.DiscardHandler))
		defer p.close()
		p.publish(&eventtypes.TaskOOM{ContainerID: "c1"})
		time.Sleep(10 * forwardTimeout)
		close(forwarder.block)
		began := time.Now()
		if err := p.flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > forwardTimeout+maxBackoff {
			t.Errorf("it took %s to notice that containerd is back", took)
		}
		if !slices.Equal(forwarder.got, []string{"c1"}) {
			t.Errorf("got %q", forwarder.got)
		}
	})
}
