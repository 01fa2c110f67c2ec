// Package agent is the guest's half of the sessions with the host: it proves nothing and believes nothing until the host has shown
// the token, and then serves the host's commands.
//
// # The sandbox's own session
//
//	          ok             Auth, right token         connection ends
//	dialling ----> greeting -------------------> ready ---------------> dialling, after a pause
//	   ^  |           |                            |
//	   +--+           | anything else              | Stop
//	 fails: pause     v                            v
//	               dialling                     stopped
//
// The first token that a host shows is the one that later sessions must show. The pause begins at minPause, doubles up to maxPause, and
// begins anew after a session that became ready.
//
// What outlives a connection: the containers; commands under way (their answers go to the connection on which the host asked last); the
// answers of the last commands, so that a command sent again is not done again; exits and stream ends until the host has acknowledged
// them.
//
// # Further sessions
//
// Other programs of the host, such as the limpet command, dial the agent (protocol.WorkloadPort). Hello, auth and ready are the same; the
// token is the one that the own session has set.
//
//	         ok       Auth, right token         connection ends, named          graceTimeout
//	accepted --> greeting ------> connected --------------------------> absent ---------------> forgotten
//	                |                 |  ^      same name again            |                       ^
//	                | anything else   |  +---------------------------------+                       |
//	                v                 |        connection ends, or Bye, without a name             |
//	             closed               +------------------------------------------------------------+
//
// Each has answers and an outbox of its own. Of a process the session hears that has started it, and who waits for it.
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
	// Eject lets go of the network card with that hardware address, and has the host take it out.
	Eject(mac string) error
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

// SSHAgent is the user's ssh-agent in containers.
type SSHAgent interface {
	Offer(m protocol.SSHAgent) error
	// Forget lets go of a container.
	Forget(container string)
}

// Options are what an agent needs of its surroundings.
type Options struct {
	Version string // the agent's
	// Dial connects to a port of the host's.
	Dial       func(ctx context.Context, port uint32) (net.Conn, error)
	Machine    Machine
	Volumes    Volumes
	Resolver   Resolver
	SSHAgent   SSHAgent
	Containers container.Options // Reporter is set by New
	Logger     *slog.Logger
}

// Identity is what no two machines have in common.
type Identity struct {
	BootID string // names this run of the machine
	CID    uint32 // the machine's context id
}

// Agent is the guest's side of the sessions.
type Agent struct {
	options    Options
	identity   Identity
	logger     *slog.Logger
	containers *container.Set
	others     *container.Set // nil: there are none
	own        *session       // the sandbox's
	further    *further
	processes  *processes
	data       *data
	leave      sync.Once
	leaving    chan struct{}   // closed when a Stop was carried out and answered
	ended      context.Context // ends when the own session is to be hung up for good
	hangUp     context.CancelFunc

	mu    sync.Mutex
	token protocol.Secret // empty until the first host has spoken
}

// New makes an agent. Identify and Run start it.
func New(options Options) *Agent {
	a := &Agent{
		options: options, logger: options.Logger, own: newSession(""), further: newFurther(), data: newData(), leaving: make(chan struct{}),
	}
	a.processes = newProcesses(a.own)
	a.ended, a.hangUp = context.WithCancel(context.Background())
	options.Containers.Reporter = a.processes
	a.containers = container.NewSet(options.Containers)
	return a
}

// Identify tells the agent what machine it is in, before Run and ServeFurther.
func (a *Agent) Identify(identity Identity) { a.identity = identity }

// Containers are the containers of the machine.
func (a *Agent) Containers() *container.Set { return a.containers }

// Run dials the host and serves it until the host has stopped the machine. It fails only if ctx ends.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(a.ended, cancel)()
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		ready, err := a.dial(ctx)
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

// dial has the own session over one connection, from dialling to its end. ready tells whether the host was let in.
func (a *Agent) dial(ctx context.Context) (ready bool, err error) {
	raw, err := a.options.Dial(ctx, protocol.SessionPortBase+a.identity.CID)
	if err != nil {
		return false, fmt.Errorf("dial the host: %w", err)
	}
	return a.converse(ctx, raw, a.own.outbox.acknowledged(), a.enterOwn)
}

// entrance says which session the host gets that has shown the token.
type entrance func(protocol.Auth) (*session, error)

// converse has a session over a connection, from hello to the end. lastAck is what hello says of it.
func (a *Agent) converse(ctx context.Context, raw net.Conn, lastAck uint64, enter entrance) (ready bool, err error) {
	conn := protocol.NewGuestConn(raw)
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	s, err := a.greet(ctx, conn, lastAck, enter)
	if s != nil {
		defer a.further.leave(s)
	}
	if err != nil {
		return false, err
	}
	a.logger.Info("session ready", "own", s == a.own)
	go s.report(ctx, conn)
	return true, a.serve(s, conn)
}

// greet says hello and lets the host in if it knows the token. A session that it has entered is returned with an error, too.
func (a *Agent) greet(ctx context.Context, conn *protocol.GuestConn, lastAck uint64, enter entrance) (*session, error) {
	hello := protocol.Hello{
		AgentVersion: a.options.Version, ProtocolVersion: protocol.Version, BootID: a.identity.BootID, CID: a.identity.CID, LastAck: lastAck,
	}
	if err := conn.WriteNotification(ctx, 0, hello); err != nil {
		return nil, err
	}
	incoming, err := conn.Read()
	if err != nil {
		return nil, fmt.Errorf("read auth: %w", err)
	}
	var s *session
	auth, ok := incoming.Message.(protocol.Auth)
	if !ok || incoming.Type != protocol.Command {
		err = fmt.Errorf("want auth first: %w", errdefs.ErrUnauthenticated)
	} else {
		s, err = a.admit(auth, enter)
	}
	if err != nil {
		if incoming.Type == protocol.Command {
			err = errors.Join(err, conn.WriteError(ctx, incoming, err))
		}
		return s, errors.Join(err, conn.WriteNotification(ctx, 0, protocol.AuthFailed{}))
	}
	s.attach(conn) // before the host may make the next
	if err := conn.WriteResponse(ctx, incoming, protocol.AuthOK{}); err != nil {
		return s, err
	}
	conn.Authenticated()
	return s, conn.WriteNotification(ctx, 0, protocol.Ready{})
}

// admit checks what the host says of itself and applies what it brings.
func (a *Agent) admit(auth protocol.Auth, enter entrance) (*session, error) {
	token := a.knownToken()
	switch {
	case auth.ProtocolVersion != protocol.Version:
		return nil, fmt.Errorf("protocol version %d, this agent speaks %d: %w", auth.ProtocolVersion, protocol.Version,
			errdefs.ErrUnauthenticated)
	case auth.Token == "":
		return nil, fmt.Errorf("no token: %w", errdefs.ErrUnauthenticated)
	case token != "" && subtle.ConstantTimeCompare([]byte(token), []byte(auth.Token)) != 1:
		return nil, fmt.Errorf("wrong token: %w", errdefs.ErrUnauthenticated)
	}
	s, err := enter(auth)
	if err != nil {
		return nil, err
	}
	if auth.Clock != nil {
		if err := a.options.Machine.SetClock(*auth.Clock); err != nil {
			return s, err
		}
	}
	if len(auth.Entropy) > 0 {
		if err := a.options.Machine.Reseed(auth.Entropy); err != nil {
			return s, err
		}
	}
	s.outbox.acknowledge(auth.Ack)
	return s, nil
}

// enterOwn lets the host into the own session. The first to come sets the token.
func (a *Agent) enterOwn(auth protocol.Auth) (*session, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.token = auth.Token
	return a.own, nil
}

func (a *Agent) knownToken() protocol.Secret {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.token
}

// serve reads commands until the connection ends.
func (a *Agent) serve(s *session, conn *protocol.GuestConn) error {
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
				s.over()
				return nil
			}
			a.command(s, conn, incoming)
		}
		if err != nil {
			return fmt.Errorf("session: %w", err)
		}
	}
}
