package requests

import (
	"context"
	"time"

	"github.com/limpet-run/limpet/guest/agent/container"
	"github.com/limpet-run/limpet/guest/protocol"
)

const (
	// timedOut is the exit code of a command that was killed because its time was over.
	timedOut = 124
	// maxTimeout keeps a timeout in milliseconds below what a time.Duration holds: a year.
	maxTimeout = 365 * 24 * uint64(time.Hour/time.Millisecond)
	// killTimeout is how long a command that was killed may take to end: its memory is given back first, which under emulation takes a second
	// per gigabyte.
	killTimeout = 20 * time.Second
	// cleanupTimeout is how long the removal of what a command has written may take.
	cleanupTimeout = time.Minute
)

// mode is what becomes of a command's streams.
type mode int

const (
	captured    mode = iota // collected, for one answer
	interactive             // sent as they come
	background              // not wanted: the command outlives the request
)

// command is how to run one.
type command struct {
	kind    string // in its container's id
	mode    mode
	tty     bool
	timeout time.Duration // 0: none
	code    protocol.Code // of what goes wrong while it runs
	// start starts it as the job says. It is called once.
	start func(ctx context.Context, k *job) (*container.Process, error)
	// cleanup undoes what was made for it. It is called once, when the command has ended or cannot be started.
	cleanup func() error
	// started is the output that the answer to a command in the background has.
	started func(k *job, p *container.Process) string
}

// newCommand checks what a request says of a command's streams and time.
func newCommand(isInteractive, tty, inBackground bool, timeoutMS *uint64) (command, error) {
	p := command{tty: tty, cleanup: func() error { return nil }}
	switch {
	case inBackground && (isInteractive || tty):
		return command{}, invalid("a command in the background can have no terminal and no input")
	case inBackground:
		p.mode = background
	case isInteractive || tty:
		p.mode = interactive
	}
	if timeoutMS != nil {
		if *timeoutMS == 0 {
			return command{}, invalid("a timeout of 0")
		}
		p.timeout = time.Duration(min(*timeoutMS, maxTimeout)) * time.Millisecond
	}
	return p, nil
}

// runCommand runs a command and answers the request.
func (c *conn) runCommand(ctx context.Context, p command) (protocol.AgentResponse, error) {
	streams := streamsOf{
		stdin: p.mode == interactive, stdout: p.mode != background, stderr: p.mode != background && !p.tty,
	}
	k := c.server.Jobs.add(c.server.Containers, p.kind, streams)
	process, err := p.start(ctx, k)
	if err != nil {
		k.jobs.drop(k)
		c.warn(ctx, "clean up", p.cleanup())
		return nil, failed(p.code, err)
	}
	r := &running{job: k, command: p, conn: c, ctx: ctx, stuck: make(chan struct{})}
	if p.timeout > 0 {
		r.timer = time.AfterFunc(p.timeout, func() { r.overdue.Store(true); r.kill() })
	}
	text := p.started(k, process)
	process.Announce()
	if p.mode == background {
		go r.end()
		return protocol.CompletedResponse{Stdout: []byte(text)}, nil
	}
	defer context.AfterFunc(ctx, r.kill)()
	if p.mode == interactive {
		return r.interact()
	}
	return r.capture()
}

// warn logs what went wrong behind a client's back.
func (c *conn) warn(ctx context.Context, what string, err error) {
	if err != nil {
		c.logger.WarnContext(ctx, what, "error", err)
	}
}
