package harness

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	eventtypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/services/events/v1"
	"github.com/containerd/typeurl/v2"
)

// Event is one event of a task.
type Event struct {
	Topic string // such as "/tasks/start"
	Body  any    // the event's type of package events of containerd's API
}

// Container is the id of the container that the event is of.
func (e Event) Container() string {
	if body, ok := e.Body.(interface{ GetContainerID() string }); ok {
		return body.GetContainerID()
	}
	return ""
}

// Exec is the id of the process that the event is of; empty for a container's first process. A TaskExit names that one by
// its container.
func (e Event) Exec() string {
	switch body := e.Body.(type) {
	case interface{ GetExecID() string }:
		return body.GetExecID()
	case *eventtypes.TaskExit:
		if body.ID != body.ContainerID {
			return body.ID
		}
	}
	return ""
}

func (e Event) String() string {
	text := e.Topic + " " + e.Container()
	if e.Exec() != "" {
		text += "/" + e.Exec()
	}
	if exit, ok := e.Body.(*eventtypes.TaskExit); ok {
		text += fmt.Sprintf(" %d", exit.ExitStatus)
	}
	return text
}

// Recorder keeps the run's task events in the order in which containerd sends them.
type Recorder struct {
	client *Client
	cancel context.CancelFunc

	mu      sync.Mutex
	events  []Event
	marks   map[string]bool // marks that came back
	err     error           // why no more events come
	changed chan struct{}   // closed and replaced at each change of the above
}

// markTopic is the topic of events that the recorder itself sends.
const markTopic = "/limpet-harness/mark"

// Record starts recording. When it returns, no event is missed any more. The caller closes the recorder.
func (c *Client) Record(ctx context.Context) (*Recorder, error) {
	stream, cancel := context.WithCancel(c.Context(context.WithoutCancel(ctx)))
	source, err := c.Events.Subscribe(stream, &events.SubscribeRequest{
		Filters: []string{"namespace==" + c.namespace + `,topic~="^/tasks/|^` + markTopic + `"`},
	})
	if err != nil {
		cancel()
		return nil, err
	}
	r := &Recorder{client: c, cancel: cancel, marks: map[string]bool{}, changed: make(chan struct{})}
	go r.receive(source)
	// Nothing says that a subscription is in place but an event that arrives, so this one is sent until it does.
	for attempt := 0; ; attempt++ {
		once, done := context.WithTimeout(ctx, 50*time.Millisecond)
		err := r.mark(once, fmt.Sprintf("subscribed-%d", attempt))
		done()
		if err == nil {
			return r, nil
		}
		if ctx.Err() != nil {
			r.Close()
			return nil, fmt.Errorf("subscribe to events: %w", err)
		}
	}
}

func (r *Recorder) receive(source events.Events_SubscribeClient) {
	for {
		envelope, err := source.Recv()
		if err != nil {
			r.update(func() { r.err = err })
			return
		}
		body, err := typeurl.UnmarshalAny(envelope.Event)
		r.update(func() {
			switch mark, ok := body.(*eventtypes.TaskStart); {
			case err != nil:
				r.err = fmt.Errorf("decode event %s: %w", envelope.Topic, err)
			case envelope.Topic == markTopic && ok:
				r.marks[mark.ContainerID] = true
			default:
				r.events = append(r.events, Event{Topic: envelope.Topic, Body: body})
			}
		})
	}
}

func (r *Recorder) update(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
	close(r.changed)
	r.changed = make(chan struct{})
}

// await waits until done, which is called under the lock, says so.
func (r *Recorder) await(ctx context.Context, done func() bool) error {
	for {
		r.mu.Lock()
		ok, err, changed := done(), r.err, r.changed
		r.mu.Unlock()
		if ok || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// mark sends an event with that name and waits until it has come back.
func (r *Recorder) mark(ctx context.Context, name string) error {
	body, err := typeurl.MarshalAnyToProto(&eventtypes.TaskStart{ContainerID: name})
	if err != nil {
		return err
	}
	_, err = r.client.Events.Publish(r.client.Context(ctx), &events.PublishRequest{Topic: markTopic, Event: body})
	if err != nil {
		return err
	}
	return r.await(ctx, func() bool { return r.marks[name] })
}

// Await waits until a container has had events of the given topics (without "/tasks/") in that order, others among them or not.
func (r *Recorder) Await(ctx context.Context, container string, topics ...string) error {
	err := r.await(ctx, func() bool {
		next := 0
		for _, event := range r.events {
			if next < len(topics) && event.Container() == container && event.Topic == "/tasks/"+topics[next] {
				next++
			}
		}
		return next == len(topics)
	})
	if err != nil {
		return fmt.Errorf("await events %q of %s: %w; there are %v", topics, container, err, r.snapshot(container))
	}
	return nil
}

// Of returns the events of a container that containerd has sent up to this call.
func (r *Recorder) Of(ctx context.Context, container string) ([]Event, error) {
	if err := r.mark(ctx, fmt.Sprintf("of-%s-%d", container, time.Now().UnixNano())); err != nil {
		return nil, err
	}
	return r.snapshot(container), nil
}

func (r *Recorder) snapshot(container string) []Event {
	return slices.DeleteFunc(r.All(), func(e Event) bool { return e.Container() != container })
}

// All returns the events that have come so far, also after containerd's end.
func (r *Recorder) All() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// Close ends the recording.
func (r *Recorder) Close() { r.cancel() }

// Lines writes events one to a line, for messages and comparisons.
func Lines(events []Event) string {
	var lines []string
	for _, event := range events {
		lines = append(lines, event.String())
	}
	return strings.Join(lines, "\n")
}
