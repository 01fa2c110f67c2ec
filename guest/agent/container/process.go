package container

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/agent/reaper"
	"github.com/limpet-run/limpet/guest/protocol"
)

// drainTimeout is how long a process's exit waits for its output after its death. Something else may hold the pipe for ever.
const drainTimeout = 2 * time.Second

// siblingTimeout is how long an init's exit waits for the exits of the other processes of its container, which the kernel has killed
// and which wait for their own output at most drainTimeout.
const siblingTimeout = drainTimeout + time.Second

// Process is a process that the host started: a container's init or an exec.
type Process struct {
	requestID uint64
	container *Container
	init      bool
	child     *reaper.Child
	console   *terminal // nil without a terminal
	oomBefore uint64    // the container's out-of-memory kills that were reported before the process started
	began     time.Time // when it was started
	logger    *slog.Logger

	announced chan struct{} // closed when the host may hear of its end
	outputs   sync.WaitGroup
	drained   chan struct{} // closed when the outputs have ended
	reported  chan struct{} // closed when the exit was reported

	mu     sync.Mutex
	conns  []io.Closer // the streams, for the removal of the container
	closed bool
}

// follow joins a process that was just started to its streams and waits for its end, all in the background.
func (p *Process) follow(streams protocol.Streams, io *stdio) {
	// What is read and written here ends with the pipes' other ends and the connections.
	if p.console != nil {
		p.output("stdout", streams.Stdout, streams.Kept, p.console)
		p.input(streams.Stdin, streams.Kept, p.console)
	} else {
		io.closeProcess()
		for i, token := range [...]*protocol.Token{streams.Stdout, streams.Stderr} {
			if io.outputs[i] != nil {
				p.output([...]string{"stdout", "stderr"}[i], token, streams.Kept, io.outputs[i])
			}
		}
		if io.stdin != nil {
			p.input(streams.Stdin, streams.Kept, io.stdin)
		}
	}
	go func() {
		p.outputs.Wait()
		if p.console != nil {
			p.console.Close()
		}
		close(p.drained)
	}()
	go p.awaitExit()
}

// output pumps an output until its end and reports its length.
func (p *Process) output(name string, token *protocol.Token, kept bool, source io.ReadCloser) {
	p.outputs.Add(1)
	go func() {
		stream, joined := claim(p, name, token, kept, p.container.set.streams.Output)
		if p.console == nil {
			defer source.Close()
		}
		var target io.Writer
		if joined {
			target = stream
		}
		sent := drain(source, target)
		if token != nil {
			<-p.announced
			p.container.set.reporter.StreamEnd(p.requestID, name, sent)
		}
		p.outputs.Done()
		if joined {
			stream.AwaitEnd()
			stream.Close()
		}
	}()
}

// inputEnd is where a process's input goes.
type inputEnd interface {
	Write([]byte) (int, error)
	Close() error
}

// input pumps the host's input until its end.
func (p *Process) input(token *protocol.Token, kept bool, target inputEnd) {
	go func() {
		conn, joined := claim(p, "stdin", token, kept, p.container.set.streams.Input)
		if p.console == nil {
			defer target.Close()
		}
		if !joined {
			return
		}
		defer conn.Close()
		// A process that is gone reads no more; its pipe may be held by another.
		ended := make(chan struct{})
		defer close(ended)
		go func() {
			select {
			case <-p.child.Done():
				conn.Close()
			case <-ended:
			}
		}()
		if feed(target, conn) && p.console != nil {
			if err := p.console.inputDrained(); err != nil {
				p.logger.Debug("end of terminal input", "error", err)
			}
		}
	}()
}

// claim waits for the host's stream, by one of the ways of Streams, and tells whether there is one.
func claim[S io.Closer](p *Process, name string, token *protocol.Token, kept bool,
	way func(context.Context, protocol.Token, bool) (S, error)) (stream S, joined bool) {
	if token == nil {
		return stream, false
	}
	stream, err := way(context.Background(), *token, kept)
	if err != nil {
		p.logger.Warn("stream not joined", "stream", name, "error", err)
		return stream, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		stream.Close()
		return stream, false
	}
	p.conns = append(p.conns, stream)
	return stream, true
}

// disconnect closes what is left of the streams.
func (p *Process) disconnect() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, conn := range p.conns {
		conn.Close()
	}
}

// awaitExit waits for the process's end and reports it.
func (p *Process) awaitExit() {
	<-p.child.Done()
	timeout := time.NewTimer(drainTimeout)
	defer timeout.Stop()
	if p.init {
		p.container.ended()
	}
	select {
	case <-p.drained:
	case <-timeout.C:
	}
	if p.init {
		p.container.awaitSiblings(siblingTimeout)
	}
	<-p.announced
	p.container.set.reporter.Exit(p.exit(p.oom()))
	close(p.reported)
	p.container.forget(p)
}

// oom tells whether the kernel killed a process of the container for want of memory in this one's life, if that may have been what ended
// it. The container's end is reported after every such kill; that of another process is not worth a look at what happens all the time.
func (p *Process) oom() bool {
	return (p.init || p.child.Exit().Status.Signaled()) && p.container.reportOOM() > p.oomBefore
}

// exit is what is said of the process's end. oom: the kernel killed a process of the container for want of memory in this one's life.
func (p *Process) exit(oom bool) protocol.Exit {
	exit := p.child.Exit()
	said := protocol.Exit{
		RequestID: p.requestID, Code: int32(exit.Code()), Reason: "exited", OOM: oom && (p.init || exit.Status.Signal() == unix.SIGKILL),
		ExitedAt: exit.At.UnixNano(),
	}
	switch {
	case !exit.Status.Signaled():
	case exit.Status.Signal() == unix.SIGKILL && oom:
		said.Reason = "oom"
	case exit.Status.Signal() == unix.SIGKILL:
		said.Reason = "killed"
	default:
		said.Reason = fmt.Sprintf("signal: %d", exit.Status.Signal())
	}
	return said
}

// RequestID is the host's name for the process.
func (p *Process) RequestID() uint64 { return p.requestID }

// Pid is the process's id in the guest; after its end it may be another's.
func (p *Process) Pid() int { return p.child.Pid() }

// Announce lets the host hear of the process's end: call it once the host has been told of its start.
func (p *Process) Announce() { close(p.announced) }

func (p *Process) resize(size protocol.Size) error {
	if p.console == nil {
		return fmt.Errorf("resize process %d: it has no terminal: %w", p.requestID, errdefs.ErrFailedPrecondition)
	}
	select {
	case <-p.drained: // the terminal is closed
		return nil
	default:
	}
	if err := p.console.resize(size); err != nil && p.running() {
		return fmt.Errorf("resize process %d: %w", p.requestID, err)
	}
	return nil
}

func (p *Process) closeInput() error {
	if p.console == nil {
		return nil // a pipe ends with its stream
	}
	if err := p.console.closeInput(); err != nil && p.running() {
		return fmt.Errorf("end the input of process %d: %w", p.requestID, err)
	}
	return nil
}

func (p *Process) running() bool {
	select {
	case <-p.child.Done():
		return false
	default:
		return true
	}
}
