package agent

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
)

const (
	// maxAnswers is how many answers are remembered: the host sends again only what was under way when a session broke, which is far less.
	maxAnswers = 1024
	// maxUnderWay bounds the commands that are carried out at once, each of which costs a goroutine and maybe a crun.
	maxUnderWay = 1024
)

// request is one command as it was received: what an answer is written to.
type request struct {
	conn     *protocol.GuestConn
	incoming protocol.Incoming[protocol.HostMessage]
}

// answer is a command's result: a message, or an error.
type answer struct {
	message protocol.GuestMessage
	err     error
}

// write sends the answer. That it cannot be sent is no loss: the host asks again, and is answered from the record.
func (r request) write(a answer) {
	if a.err != nil {
		_ = r.conn.WriteError(context.Background(), r.incoming, a.err)
		return
	}
	_ = r.conn.WriteResponse(context.Background(), r.incoming, a.message)
}

// answers remembers by call id which commands are under way and what was answered, so that none is done twice.
type answers struct {
	mu       sync.Mutex
	underWay map[uint64]*underWay
	given    map[uint64]answer
	order    []uint64 // of the given, oldest first
}

// underWay is a command that is being carried out.
type underWay struct {
	request request // where the answer goes: the connection on which the host asked last
	cancel  context.CancelCauseFunc
}

func newAnswers() *answers {
	return &answers{underWay: map[uint64]*underWay{}, given: map[uint64]answer{}}
}

// begin notes that a command is received, and how to give it up. It is to be carried out if fresh; else, if there is an answer, that is to
// be sent, and if there is none the command is under way.
func (a *answers) begin(r request, cancel context.CancelCauseFunc) (fresh bool, known *answer) {
	id := r.incoming.CallID
	a.mu.Lock()
	defer a.mu.Unlock()
	if known, ok := a.given[id]; ok {
		return false, &known
	}
	if command := a.underWay[id]; command != nil {
		command.request = r
		return false, nil
	}
	switch {
	case id == 0:
		return false, &answer{err: fmt.Errorf("command without a call id: %w", errdefs.ErrInvalidArgument)}
	case len(a.underWay) >= maxUnderWay:
		return false, &answer{err: fmt.Errorf("%d commands are under way: %w", maxUnderWay, errdefs.ErrResourceExhausted)}
	}
	a.underWay[id] = &underWay{r, cancel}
	return true, nil
}

// end notes a command's answer and returns where it goes.
func (a *answers) end(id uint64, result answer) request {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.underWay[id].request
	delete(a.underWay, id)
	a.given[id] = result
	a.order = append(a.order, id)
	if len(a.order) > maxAnswers {
		delete(a.given, a.order[0])
		a.order = a.order[1:]
	}
	return r
}

// errCancelled is why a command is given up that the host has cancelled.
var errCancelled = fmt.Errorf("cancelled by the host: %w", context.Canceled)

// cancel gives a command up. One that is not under way has its answer, or was never received.
func (a *answers) cancel(id uint64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	command := a.underWay[id]
	if command == nil {
		return fmt.Errorf("cancel command %d: it is not under way: %w", id, errdefs.ErrNotFound)
	}
	command.cancel(errCancelled)
	return nil
}
