package runtime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/time/rate"

	"github.com/limpet-run/limpet/guest/protocol"
)

// SSHAgentRequest is what a visitor of SSHAgentDoor says, as one JSON text. He is answered by a status (protocol.ReadStatus); from then on
// until he hangs up the container has the ssh-agent.
type SSHAgentRequest struct {
	Container string `json:"container,omitempty"` // empty: the first that runs
	Socket    string `json:"socket"`              // absolute, on the host: where the ssh-agent listens
}

const (
	// maxSSHAgentRequest is the most bytes of a request.
	maxSSHAgentRequest = 8 << 10
	// sshAgentRequestTimeout is how long a visitor may take to say it.
	sshAgentRequestTimeout = 10 * time.Second
)

// serveSSHAgent lets a container use an ssh-agent of the host's for as long as the visitor stays.
func (s *Sandbox) serveSSHAgent(ctx context.Context, visitor *net.UnixConn) {
	var request SSHAgentRequest
	err := visitor.SetReadDeadline(time.Now().Add(sshAgentRequestTimeout))
	if err == nil {
		err = json.NewDecoder(io.LimitReader(visitor, maxSSHAgentRequest)).Decode(&request)
	}
	if err != nil {
		s.log.Warn("visitor with an ssh-agent not understood", "error", err)
		return
	}
	offer, err := s.offerSSHAgent(ctx, request)
	if err := errors.Join(protocol.WriteStatus(visitor, err), visitor.SetReadDeadline(time.Time{})); err != nil {
		s.log.Debug("visitor with an ssh-agent gone", "error", err)
	}
	if err != nil {
		return
	}
	defer offer.close()
	offer.serving.Go(offer.serve)
	_, _ = io.Copy(io.Discard, visitor) // until he hangs up, or ctx ends
}

// sshAgentOffer is an ssh-agent that a container has.
type sshAgentOffer struct {
	container *Container
	socket    string
	listener  *agentListener
	ctx       context.Context // ends with the offer
	end       context.CancelFunc
	serving   sync.WaitGroup
}

// offerSSHAgent makes the socket in the container.
func (s *Sandbox) offerSSHAgent(ctx context.Context, request SSHAgentRequest) (*sshAgentOffer, error) {
	if !filepath.IsAbs(request.Socket) {
		return nil, fmt.Errorf("ssh-agent at %q: must be the absolute path of a socket: %w", request.Socket, errdefs.ErrInvalidArgument)
	}
	container, err := s.commandContainer(request.Container)
	if err != nil {
		return nil, err
	}
	agent, err := net.Dial("unix", request.Socket) // is it there?
	if err != nil {
		return nil, fmt.Errorf("ssh-agent: %w", err)
	}
	if err := agent.Close(); err != nil {
		return nil, err
	}
	if !s.sshAgent.TryLock() {
		return nil, fmt.Errorf("sandbox %s has an ssh-agent already: end the other command first: %w", s.id, errdefs.ErrAlreadyExists)
	}
	listener, err := s.listenForAgent(protocol.SSHAgentPort)
	if err == nil {
		_, err = s.call(ctx, callTimeout, protocol.SSHAgent{ContainerID: container.id, Port: listener.Port(), Token: listener.token})
		if err != nil {
			err = errors.Join(err, listener.Close())
		}
	}
	if err != nil {
		s.sshAgent.Unlock()
		return nil, fmt.Errorf("ssh-agent for container %s: %w", container.id, err)
	}
	container.log.Info("the container may use an ssh-agent of the host", "socket", request.Socket)
	offer := &sshAgentOffer{container: container, socket: request.Socket, listener: listener}
	offer.ctx, offer.end = context.WithCancel(context.WithoutCancel(ctx))
	return offer, nil
}

// close takes the socket away and ends its clients.
func (o *sshAgentOffer) close() {
	s := o.container.sandbox
	defer s.sshAgent.Unlock()
	o.end()
	_ = o.listener.Close()
	o.serving.Wait()
	_, err := s.call(context.Background(), callTimeout, protocol.SSHAgent{ContainerID: o.container.id})
	if err != nil && !errdefs.IsNotFound(err) && !s.isLost() { // the container may have gone before
		o.container.log.Warn("the socket of an ssh-agent that is gone is left in the container", "error", err)
	}
	o.container.log.Info("the container may use the ssh-agent no more")
}

// serve joins the guest's clients to the ssh-agent until the listener is closed. The guest has no more than its limit at a time.
func (o *sshAgentOffer) serve() {
	places := make(chan struct{}, protocol.MaxSSHAgentClients)
	logs := rate.NewLimiter(loggedRefusals, loggedRefusals) // the guest can bring it about as often as it likes
	for {
		guest, err := o.listener.Accept(o.ctx)
		if err != nil {
			return
		}
		select {
		case places <- struct{}{}:
		case <-o.ctx.Done():
			guest.Close()
			return
		}
		o.serving.Go(func() {
			defer func() { <-places }()
			defer guest.Close()
			if err := o.relay(guest); !errors.Is(err, io.EOF) && o.ctx.Err() == nil && logs.Allow() {
				o.container.log.Warn("client of the ssh-agent hung up on", "error", err)
			}
		})
	}
}

// relay passes requests and answers on, one at a time, until one side hangs up. What does more than use the keys is refused.
func (o *sshAgentOffer) relay(guest net.Conn) error {
	defer context.AfterFunc(o.ctx, func() { guest.Close() })()
	agent, err := new(net.Dialer).DialContext(o.ctx, "unix", o.socket)
	if err != nil {
		return fmt.Errorf("reach the ssh-agent: %w", err)
	}
	defer agent.Close()
	defer context.AfterFunc(o.ctx, func() { agent.Close() })()
	for {
		var request bytes.Buffer
		if err := protocol.CopySSHAgentMessage(&request, guest); err != nil {
			return err
		}
		if !usesSSHKeys(request.Bytes()) {
			if _, err := guest.Write(sshRefusal); err != nil {
				return err
			}
			continue
		}
		if _, err := agent.Write(request.Bytes()); err != nil {
			return err
		}
		if err := protocol.CopySSHAgentMessage(guest, agent); err != nil {
			return err
		}
	}
}
