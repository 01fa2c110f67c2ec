// Package agent is the guest's half of a session with the host: it dials, proves nothing and believes nothing until the host has shown the
// token, and then serves the host's commands.
//
// # A session
//
//	          ok             Auth, right token         connection ends
//	dialling ----> greeting -------------------> ready ---------------> dialling, after a pause
//	   ^  |           |                            |
//	   +--+           | anything else              | Stop
//	 fails: pause     v                            v
//	               dialling                     stopped
//
// The first token that a host shows is the one that later sessions must show. The pause begins at minPause, doubles up to maxPause, and begins
// anew after a session that became ready.
//
// What outlives a session: the containers; commands under way (their answers go to the session in which the host asked last); the
// answers of the last commands, so that a command sent again is not done again; exits and stream ends until the host has acknowledged
// them.
package agent

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/agent/container"
	"github.com/limpet-run/limpet/guest/protocol"
)

const (
	// minPause is the first pause before dialling again: a host that restarts its side is back in about that time.
	minPause = 50 * time.Millisecond
	// maxPause bounds how long a host waits for its guest after a long absence.
	maxPause = 2 * time.Second
)

// Machine is what the agent does to the machine itself.
type Machine interface {
	SetClock(unixNano int64) error
	Reseed(entropy []byte) error
	ConfigureNetwork(ctx context.Context, m protocol.Network) error
	// UseProcessors starts processors until at least that many run.
	UseProcessors(count uint64) error
	// AwaitMemory waits until at least that many bytes have been added to the machine's memory.
	AwaitMemory(ctx context.Context, bytes uint64) error
	// AwaitDisk waits for the disk with that serial number.
	AwaitDisk(ctx context.Context, serial string) (protocol.BlockDevice, error)
}

// Volumes are what containers share inside the guest.
type Volumes interface {
	Mount(m protocol.Mount) error
	Unmount(m protocol.Unmount) error
}

// Resolver resolves the guest's names by the host.
type Resolver interface {
	Resolve(m protocol.Resolver) error
}

// Options are what an agent needs of its surroundings.
type Options struct {
	Version string // the agent's
	BootID  string // names this run of the machine
	CID     uint32 // the machine's context id
	// Dial connects to the host's session port.
	Dial       func(context.Context) (net.Conn, error)
	Machine    Machine
	Volumes    Volumes
	Resolver   Resolver
	Containers container.Options // Reporter is set by New
	Logger     *slog.Logger
}

// Agent is the guest's side of the session.
type Agent struct {
	options    Options
	logger     *slog.Logger
	containers *container.Set
	outbox     *outbox
	answers    *answers
	token      protocol.Secret // empty until the first host has spoken; only for the goroutine of Run
	leave      sync.Once
	leaving    chan struct{}   // closed when a Stop was carried out and answered
	ended      context.Context // ends when the session is to be hung up for good
	hangUp     context.CancelFunc
}

// New makes an agent. Run starts it.
func New(options Options) *Agent {
	a := &Agent{
		options: options, logger: options.Logger, outbox: newOutbox(), answers: newAnswers(), leaving: make(chan struct{}),
	}
	a.ended, a.hangUp = context.WithCancel(context.Background())
	options.Containers.Reporter = reporter{a.outbox}
	a.containers = container.NewSet(options.Containers)
	return a
}

// Containers are the containers of the machine.
func (a *Agent) Containers() *container.Set { return a.containers }

// Run dials the host and serves it until the host has stopped the machine. It fails only if ctx ends.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(a.ended, cancel)()
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		ready, err := a.session(ctx)
		if ready {
			pause = minPause
		}
		a.logger.Info("session ended", "error", err)
		select {
		case <-a.leaving:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// session is one connection from dialling to its end. ready tells whether the host was let in.
func (a *Agent) session(ctx context.Context) (ready bool, err error) {
	raw, err := a.options.Dial(ctx)
	if err != nil {
		return false, fmt.Errorf("dial the host: %w", err)
	}
	conn := protocol.NewGuestConn(raw)
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := a.greet(ctx, conn); err != nil {
		return false, err
	}
	a.logger.Info("session ready")
	go a.report(ctx, conn)
	return true, a.serve(conn)
}

// greet says hello and lets the host in if it knows the token.
func (a *Agent) greet(ctx context.Context, conn *protocol.GuestConn) error {
	hello := protocol.Hello{
		AgentVersion: a.options.Version, ProtocolVersion: protocol.Version, BootID: a.options.BootID, CID: a.options.CID,
		LastAck: a.outbox.acknowledged(),
	}
	if err := conn.WriteNotification(ctx, 0, hello); err != nil {
		return err
	}
	incoming, err := conn.Read()
	if err != nil {
		return fmt.Errorf("read auth: %w", err)
	}
	auth, ok := incoming.Message.(protocol.Auth)
	if !ok || incoming.Type != protocol.Command {
		err = fmt.Errorf("want auth first: %w", errdefs.ErrUnauthenticated)
	} else {
		err = a.admit(auth)
	}
	if err != nil {
		if incoming.Type == protocol.Command {
			err = errors.Join(err, conn.WriteError(ctx, incoming, err))
		}
		return errors.Join(err, conn.WriteNotification(ctx, 0, protocol.AuthFailed{}))
	}
	if err := conn.WriteResponse(ctx, incoming, protocol.AuthOK{}); err != nil {
		return err
	}
	conn.Authenticated()
	return conn.WriteNotification(ctx, 0, protocol.Ready{})
}

// admit checks what the host says of itself and applies what it brings.
func (a *Agent) admit(auth protocol.Auth) error {
	switch {
	case auth.ProtocolVersion != protocol.Version:
		return fmt.Errorf("protocol version %d, this agent speaks %d: %w", auth.ProtocolVersion, protocol.Version, errdefs.ErrUnauthenticated)
	case auth.Token == "":
		return fmt.Errorf("no token: %w", errdefs.ErrUnauthenticated)
	case a.token != "" && subtle.ConstantTimeCompare([]byte(a.token), []byte(auth.Token)) != 1:
		return fmt.Errorf("wrong token: %w", errdefs.ErrUnauthenticated)
	}
	a.token = auth.Token
	if auth.Clock != nil {
		if err := a.options.Machine.SetClock(*auth.Clock); err != nil {
			return err
		}
	}
	if len(auth.Entropy) > 0 {
		if err := a.options.Machine.Reseed(auth.Entropy); err != nil {
			return err
		}
	}
	a.outbox.acknowledge(auth.Ack)
	return nil
}

// report sends what the host has not acknowledged, and what comes, until the connection ends.
func (a *Agent) report(ctx context.Context, conn *protocol.GuestConn) {
	defer conn.Close()
	for last := uint64(0); ; {
		item, err := a.outbox.next(ctx, last)
		if err != nil {
			return
		}
		if err := conn.WriteNotification(ctx, item.requestID, item.message); err != nil {
			return
		}
		last = item.number
		a.outbox.sent(item)
	}
}

// serve reads commands until the connection ends.
func (a *Agent) serve(conn *protocol.GuestConn) error {
	for {
		incoming, err := conn.Read()
		if _, bad := errors.AsType[*protocol.PayloadError](err); bad {
			if incoming.Type == protocol.Command {
				err = conn.WriteError(context.Background(), incoming, err)
			} else {
				a.logger.Warn("message not understood", "error", err)
				err = nil
			}
		} else if err == nil {
			if _, bye := incoming.Message.(protocol.Bye); bye {
				return nil
			}
			a.command(conn, incoming)
		}
		if err != nil {
			return fmt.Errorf("session: %w", err)
		}
	}
}
