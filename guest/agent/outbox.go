package agent

import (
	"context"
	"slices"
	"sync"

	"github.com/limpet-run/limpet/guest/protocol"
)

// outbox is what the agent has to say of processes, in order. Exits and stream ends have a sequence and are kept until they are
// acknowledged; events are kept until they are sent.
type outbox struct {
	mu       sync.Mutex
	items    []item
	number   uint64        // of the last item
	sequence uint64        // the last one given
	acked    uint64        // the highest one acknowledged
	said     uint64        // the number of the last item that was sent in some session
	changed  chan struct{} // closed and replaced when an item is added or sent
}

// item is one notification.
type item struct {
	number    uint64 // counts the items
	sequence  uint64 // 0: none
	requestID uint64
	message   protocol.GuestMessage
}

func newOutbox() *outbox { return &outbox{changed: make(chan struct{})} }

// add appends what make returns for the next sequence.
func (o *outbox) add(requestID uint64, make func(sequence uint64) protocol.GuestMessage) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sequence++
	o.append(item{sequence: o.sequence, requestID: requestID, message: make(o.sequence)})
}

// addEvent appends a message without a sequence.
func (o *outbox) addEvent(message protocol.GuestMessage) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.append(item{message: message})
}

func (o *outbox) append(i item) {
	o.number++
	i.number = o.number
	o.items = append(o.items, i)
	o.change()
}

func (o *outbox) change() {
	close(o.changed)
	o.changed = make(chan struct{})
}

// next waits for the first item behind the one with that number.
func (o *outbox) next(ctx context.Context, after uint64) (item, error) {
	for {
		found, changed := o.first(after)
		if found.number != 0 {
			return found, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return item{}, ctx.Err()
		}
	}
}

func (o *outbox) first(after uint64) (item, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	at, _ := slices.BinarySearchFunc(o.items, after+1, func(i item, number uint64) int { return int(int64(i.number - number)) })
	if at < len(o.items) {
		return o.items[at], o.changed
	}
	return item{}, o.changed
}

// sent notes that an item was sent, and forgets it if it is an event, which nobody acknowledges.
func (o *outbox) sent(i item) {
	if i.sequence == 0 {
		o.drop(func(other item) bool { return other.number == i.number })
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.said = max(o.said, i.number)
	o.change()
}

// flush waits until everything that is in the outbox was sent, as long as ctx allows.
func (o *outbox) flush(ctx context.Context) {
	for {
		o.mu.Lock()
		done, changed := o.said == o.number, o.changed
		o.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// acknowledge forgets what has a sequence up to the one given.
func (o *outbox) acknowledge(sequence uint64) {
	o.drop(func(i item) bool { return i.sequence != 0 && i.sequence <= sequence })
	o.mu.Lock()
	defer o.mu.Unlock()
	o.acked = max(o.acked, min(sequence, o.sequence))
}

func (o *outbox) acknowledged() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.acked
}

func (o *outbox) drop(unwanted func(item) bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.items = slices.DeleteFunc(o.items, unwanted)
}
