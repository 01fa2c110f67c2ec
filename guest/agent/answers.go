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
	underWay map[uint64]request // where the answer goes: the session in which the host asked last
	given    map[uint64]answer
	order    []uint64 // of the given, oldest first
}

func newAnswers() *answers {
	return &answers{underWay: map[uint64]request{}, given: map[uint64]answer{}}
}

// begin notes that a command is received. It is to be carried out if fresh; else, if there is an answer, that is to be sent, and if there
// is none the command is under way.
func (a *answers) begin(r request) (fresh bool, known *answer) {
	id := r.incoming.CallID
	a.mu.Lock()
	defer a.mu.Unlock()
	if known, ok := a.given[id]; ok {
		return false, &known
	}
	if _, ok := a.underWay[id]; ok {
		a.underWay[id] = r
		return false, nil
	}
	switch {
	case id == 0:
		return false, &answer{err: fmt.Errorf("command without a call id: %w", errdefs.ErrInvalidArgument)}
	case len(a.underWay) >= maxUnderWay:
		return false, &answer{err: fmt.Errorf("%d commands are under way: %w", maxUnderWay, errdefs.ErrResourceExhausted)}
	}
	a.underWay[id] = r
	return true, nil
}

// end notes a command's answer and returns where it goes.
func (a *answers) end(id uint64, result answer) request {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.underWay[id]
	delete(a.underWay, id)
	a.given[id] = result
	a.order = append(a.order, id)
	if len(a.order) > maxAnswers {
		delete(a.given, a.order[0])
		a.order = a.order[1:]
	}
	return r
}
