package requests

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-run/limpet/guest/protocol"
)

// probeInterval is how often a client is sent no output at all while its input waits to be taken: that is how it is noticed that it is
// gone, when nothing more of it is read.
const probeInterval = 2 * time.Second

// running is a command that was started.
type running struct {
	*job
	command
	conn    *conn
	ctx     context.Context // for the log: the request's
	timer   *time.Timer
	overdue atomic.Bool // its time was over
	killing sync.Once
	stuck   chan struct{} // closed when it was killed and does not end
	outputs sync.WaitGroup
}

// kill ends the command with everything that it has started.
func (r *running) kill() {
	r.killing.Do(func() {
		r.conn.warn(r.ctx, "kill command "+r.name, r.job.kill())
		time.AfterFunc(killTimeout, func() { close(r.stuck) })
	})
}

// end waits for the command's end and undoes what was made for it.
func (r *running) end() {
	<-r.ended
	if r.timer != nil {
		r.timer.Stop()
	}
	r.conn.warn(r.ctx, "remove command "+r.name, r.remove())
	r.conn.warn(r.ctx, "clean up after command "+r.name, r.cleanup())
}

// over is closed when the command has ended, everything that it has written was read, and nothing is left of it.
func (r *running) over() <-chan struct{} {
	over := make(chan struct{})
	go func() {
		defer close(over)
		r.outputs.Wait()
		r.end()
	}()
	return over
}

func (r *running) notEnding() error {
	return &protocol.Error{Message: fmt.Sprintf("the command was killed and has not ended for %v", killTimeout), Code: protocol.CodeWaitFailed}
}

// follow reads an output in the background.
func (r *running) follow(output net.Conn, take func([]byte) error) {
	if output != nil {
		r.outputs.Go(func() {
			if err := r.read(output, take); err != nil {
				r.kill()
			}
		})
	}
}

// exitCode is that of a command that has ended.
func (r *running) exitCode() int32 {
	if r.overdue.Load() {
		return timedOut
	}
	return r.exit.Code
}

// interact sends what the command says, and gives it what the client says, until it has ended.
func (r *running) interact() (protocol.AgentResponse, error) {
	_ = r.conn.send(protocol.StartedResponse{}) // if it cannot be sent, the command is killed, as always
	r.follow(r.stdout, func(data []byte) error { return r.conn.send(protocol.StdoutResponse{Data: data}) })
	r.follow(r.stderr, func(data []byte) error { return r.conn.send(protocol.StderrResponse{Data: data}) })
	over := r.over()
	for {
		select {
		case <-over:
			return protocol.ExitedResponse{ExitCode: r.exitCode()}, nil
		case <-r.stuck:
			return nil, r.notEnding()
		case in := <-r.conn.inbox:
			if err := r.listen(in); err != nil {
				_ = r.conn.send(errorResponse(err))
			}
			in.done()
		}
	}
}

// listen does what a request says that comes while the command runs.
func (r *running) listen(in incoming) error {
	if in.err != nil {
		return in.err
	}
	switch request := in.Body.(type) {
	case protocol.StdinRequest:
		defer r.probe()()
		return r.write(request.Data)
	case protocol.ResizeRequest:
		if !r.tty {
			return invalid("the command on this connection has no terminal")
		}
		return r.containers.Resize(protocol.Resize{RequestID: r.id, Size: protocol.Size(request)})
	}
	return invalid("%s: a command runs on this connection: want stdin or resize until it has exited", protocol.AgentRequests.Name(in.Body))
}

// probe looks again and again whether the client is still there, until done is called.
func (r *running) probe() (done func()) {
	stopped := make(chan struct{})
	go func() {
		ticker := time.NewTicker(probeInterval)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				_ = r.conn.send(protocol.StdoutResponse{})
			case <-stopped:
				return
			}
		}
	}()
	return func() { close(stopped) }
}

// capture collects what the command says.
func (r *running) capture() (protocol.AgentResponse, error) {
	collected := &collection{server: r.conn.server}
	defer collected.release()
	r.follow(r.stdout, func(data []byte) error { return collected.add(&collected.stdout, data) })
	r.follow(r.stderr, func(data []byte) error { return collected.add(&collected.stderr, data) })
	select {
	case <-r.over():
	case <-r.stuck:
		return nil, r.notEnding()
	}
	if err := collected.error(); err != nil {
		return nil, failed(r.command.code, err)
	}
	_ = r.conn.sendCompleted(protocol.CompletedResponse{ExitCode: r.exitCode(), Stdout: collected.stdout, Stderr: collected.stderr})
	return nil, nil
}

const (
	// maxCaptured is the most output in bytes that one response can carry, as base64 and with all that is around it.
	maxCaptured = (protocol.MaxPayload - 64<<10) / 4 * 3
	// maxCapturedInAll bounds what all connections together collect, for the sake of a small guest.
	maxCapturedInAll = 32 << 20
)

// collection is the output of a captured command.
type collection struct {
	server *Server

	mu             sync.Mutex
	stdout, stderr []byte
	failed         error
}

// add takes a piece of one of the outputs.
func (c *collection) add(output *[]byte, data []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch size := len(c.stdout) + len(c.stderr) + len(data); {
	case c.failed != nil:
	case size > maxCaptured:
		c.failed = fmt.Errorf("the command has written more than the %d bytes that one answer can carry, and was killed: run it interactively",
			maxCaptured)
	case !c.server.collect(len(data)):
		c.failed = fmt.Errorf("the commands that are captured now have written more than %d bytes, and this one was killed: run it interactively",
			maxCapturedInAll)
	default:
		*output = append(*output, data...)
	}
	return c.failed
}

var errReleased = errors.New("nobody waits for the command's output any more")

func (c *collection) error() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed
}

// release forgets what was collected, and what may still come of a command that does not end.
func (c *collection) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed = errReleased
	c.server.discard(len(c.stdout) + len(c.stderr))
	c.stdout, c.stderr = nil, nil
}

// collect takes so many bytes of what may be collected in all.
func (s *Server) collect(bytes int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.captured+bytes > maxCapturedInAll {
		return false
	}
	s.captured += bytes
	return true
}

func (s *Server) discard(bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.captured -= bytes
}
