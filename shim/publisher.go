package shim

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	// maxQueuedEvents bounds the memory of events while containerd is away. An event is well below 1 KiB unless a rootfs has many layers.
	maxQueuedEvents = 2048
	// forwardTimeout is for one event. containerd answers in microseconds; after this long it is taken for hung.
	forwardTimeout = 5 * time.Second
	// While containerd is away it is tried again after firstBackoff, doubled up to maxBackoff: soon after a quick restart, and rarely enough
	// for a host with hundreds of shims during a long one.
	firstBackoff = 50 * time.Millisecond
	maxBackoff   = 5 * time.Second
)

// forwarder hands one event to containerd. An error with a gRPC status is containerd's answer, see refused; any other means that it was
// not reached.
type forwarder interface {
	forward(ctx context.Context, envelope *types.Envelope) error
	close()
}

// publisher sends events to containerd, one after the other in the order of publish, and waits out a containerd that is away.
type publisher struct {
	namespace string
	forwarder forwarder
	logger    *slog.Logger
	cancel    context.CancelFunc
	done      chan struct{} // run has ended

	mu    sync.Mutex
	queue []*types.Envelope
	empty chan struct{} // closed while the queue is empty and nothing is under way
	more  chan struct{} // holds a token when the queue may have grown
	back  chan struct{} // holds a token when containerd may be back
}

func newPublisher(namespace string, forwarder forwarder, logger *slog.Logger) *publisher {
	ctx, cancel := context.WithCancel(context.Background())
	p := &publisher{
		namespace: namespace,
		forwarder: forwarder,
		logger:    logger,
		cancel:    cancel,
		done:      make(chan struct{}),
		empty:     make(chan struct{}),
		more:      make(chan struct{}, 1),
		back:      make(chan struct{}, 1),
	}
	close(p.empty)
	go p.run(ctx)
	return p
}

// publish queues an event and does not wait. If the queue is full the oldest event gives way: a containerd that was away that long
// asks for the state of every task when it comes back.
func (p *publisher) publish(event proto.Message) {
	body, err := marshalAny(event)
	if err != nil {
		p.logger.Error("event lost: it cannot be encoded", "error", err)
		return
	}
	envelope := &types.Envelope{
		Timestamp: timestamppb.Now(),
		Namespace: p.namespace,
		Topic:     runtime.GetTopic(event),
		Event:     body,
	}
	p.mu.Lock()
	if len(p.queue) == 0 {
		p.empty = make(chan struct{})
	}
	p.queue = append(p.queue, envelope)
	var dropped *types.Envelope
	if len(p.queue) > maxQueuedEvents {
		dropped, p.queue = p.queue[0], p.queue[1:]
	}
	p.mu.Unlock()
	if dropped != nil {
		p.logger.Error("event lost: containerd has been away too long", "topic", dropped.Topic)
	}
	select {
	case p.more <- struct{}{}:
	default:
	}
}

// marshalAny encodes a message the way typeurl does: the type's name without a host before it.
func marshalAny(message proto.Message) (*anypb.Any, error) {
	value, err := proto.Marshal(message)
	if err != nil {
		return nil, err
	}
	return &anypb.Any{TypeUrl: string(proto.MessageName(message)), Value: value}, nil
}

// retry tries again at once, and soon after that, what waits for containerd to come back: there is a sign that it is.
func (p *publisher) retry() {
	select {
	case p.back <- struct{}{}:
	default:
	}
}

// flush waits until all that was published before has been sent.
func (p *publisher) flush(ctx context.Context) error {
	p.retry()
	p.mu.Lock()
	empty := p.empty
	p.mu.Unlock()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close stops sending. Events that are still queued are lost.
func (p *publisher) close() {
	p.cancel()
	<-p.done
	p.forwarder.close()
}

func (p *publisher) run(ctx context.Context) {
	defer close(p.done)
	for {
		envelope := p.first()
		if envelope == nil {
			select {
			case <-p.more:
			case <-ctx.Done():
				return
			}
			continue
		}
		if !p.send(ctx, envelope) {
			return
		}
		p.remove(envelope)
	}
}

func (p *publisher) first() *types.Envelope {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		return nil
	}
	return p.queue[0]
}

// remove takes a sent event off the queue, unless it had to give way meanwhile.
func (p *publisher) remove(envelope *types.Envelope) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) > 0 && p.queue[0] == envelope {
		p.queue = p.queue[1:]
	}
	if len(p.queue) == 0 {
		p.queue = nil // lets go of the array
		close(p.empty)
	}
}

// send tries until containerd has the event, has refused it, or ctx ends; then it returns false.
func (p *publisher) send(ctx context.Context, envelope *types.Envelope) bool {
	backoff := firstBackoff
	for {
		attempt, cancel := context.WithTimeout(ctx, forwardTimeout)
		err := p.forwarder.forward(attempt, envelope)
		cancel()
		if err == nil {
			return true
		}
		if refused(err) {
			p.logger.Error("event lost: containerd refused it", "topic", envelope.Topic, "error", err)
			return true
		}
		p.logger.Debug("containerd is away: event waits", "topic", envelope.Topic, "error", err, "again_in", backoff)
		select {
		case <-time.After(backoff):
			backoff = min(2*backoff, maxBackoff)
		case <-p.back:
			backoff = firstBackoff
		case <-ctx.Done():
			return false
		}
	}
}

// refused tells whether an error is containerd's verdict on the event. One that is just ending answers that it cannot.
func refused(err error) bool {
	answer, answered := status.FromError(err)
	return answered && !slices.Contains([]codes.Code{codes.Canceled, codes.DeadlineExceeded, codes.Unavailable}, answer.Code())
}

// containerdForwarder forwards over containerd's ttrpc socket. It is used by one goroutine.
type containerdForwarder struct {
	address string // path of the socket
	client  *ttrpc.Client
}

// newContainerdForwarder takes the address as in TTRPC_ADDRESS: a path, or a unix:// URI.
func newContainerdForwarder(address string) *containerdForwarder {
	return &containerdForwarder{address: strings.TrimPrefix(address, "unix://")}
}

func (f *containerdForwarder) forward(ctx context.Context, envelope *types.Envelope) error {
	if f.address == "" {
		return errors.New("containerd did not say where its ttrpc socket is")
	}
	kept := f.client != nil
	if !kept {
		connection, err := new(net.Dialer).DialContext(ctx, "unix", f.address)
		if err != nil {
			return err
		}
		f.client = ttrpc.NewClient(connection)
	}
	_, err := eventsapi.NewTTRPCEventsClient(f.client).Forward(ctx, &eventsapi.ForwardRequest{Envelope: envelope})
	if _, answered := status.FromError(err); answered {
		return err
	}
	f.close()
	if kept && errors.Is(err, ttrpc.ErrClosed) {
		return f.forward(ctx, envelope) // containerd has been restarted since the last event: a new connection may do
	}
	return err
}

func (f *containerdForwarder) close() {
	if f.client != nil {
		f.client.Close()
		f.client = nil
	}
}
