package shim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	eventtypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// fakeForwarder is a containerd that takes events, refuses one, or is away a number of times.
type fakeForwarder struct {
	mu     sync.Mutex
	away   int
	refuse string
	block  chan struct{}
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
