package agent

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
)

// maxEnded is how many processes are remembered that have ended: an output may end later, and who waits may come too late.
const maxEnded = 1024

// processes knows which session hears of each process. It implements container.Reporter.
type processes struct {
	own *session

	mu    sync.Mutex
	known map[uint64]*process // by request id
	ended []uint64            // oldest first
}

// process is a process that was started.
type process struct {
	session *session      // that has started it
	ended   chan struct{} // closed when exit is set
	exit    protocol.Exit
}

func newProcesses(own *session) *processes {
	return &processes{own: own, known: map[uint64]*process{}}
}

// started notes a process that a session has started, before anything is reported of it.
func (p *processes) started(requestID uint64, s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known[requestID] = &process{session: s, ended: make(chan struct{})}
}

func (p *processes) find(requestID uint64) *process {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.known[requestID]
}

// wait waits for a process's end.
func (p *processes) wait(ctx context.Context, requestID uint64) (protocol.GuestMessage, error) {
	process := p.find(requestID)
	if process == nil {
		return nil, fmt.Errorf("wait for process %d: there is none, or it ended long ago: %w", requestID, errdefs.ErrNotFound)
	}
	select {
	case <-process.ended:
		return process.exit, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for process %d: %w", requestID, context.Cause(ctx))
	}
}

// session is who hears of a process.
func (p *processes) session(requestID uint64) *session {
	if process := p.find(requestID); process != nil {
		return process.session
	}
	return p.own
}

// StreamEnd implements container.Reporter.
func (p *processes) StreamEnd(requestID uint64, stream string, bytes uint64) {
	p.session(requestID).outbox.add(requestID, func(sequence uint64) protocol.GuestMessage {
		return protocol.StreamEnd{RequestID: requestID, Stream: stream, Bytes: bytes, Sequence: sequence}
	})
}

// Exit implements container.Reporter.
func (p *processes) Exit(exit protocol.Exit) {
	p.session(exit.RequestID).outbox.add(exit.RequestID, func(sequence uint64) protocol.GuestMessage {
		exit := exit
		exit.Sequence = sequence
		return exit
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	process := p.known[exit.RequestID]
	if process == nil {
		return
	}
	process.exit = exit
	close(process.ended)
	if p.ended = append(p.ended, exit.RequestID); len(p.ended) > maxEnded {
		delete(p.known, p.ended[0])
		p.ended = p.ended[1:]
	}
}

// OOM implements container.Reporter.
func (p *processes) OOM(containerID string) {
	p.own.outbox.addEvent(protocol.Event{Kind: "oom", ContainerID: containerID})
}
