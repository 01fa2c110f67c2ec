package runtime

import (
	"context"
	"io"
	"net"
	"path/filepath"

	"github.com/limpet-run/limpet/guest/client"
	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/runtime/door"
	"github.com/limpet-run/limpet/runtime/streamsidecar"
)

// The doors of a sandbox, in its state directory: how a process of this host reaches it. They are open from when the sandbox runs until it
// is stopped or its machine has ended.
const (
	// AgentDoor has a connection with the agent behind it, for machine requests.
	AgentDoor = "agent.sock"
	// StreamDoor has byte streams of the guest behind it: a connection begins with protocol.Preamble.
	StreamDoor = "stream.sock"
	// ConsoleDoor tells what the guest's console says.
	ConsoleDoor = "console.sock"
	// CommandDoor has package execsidecar's server behind it, for commands in the containers.
	CommandDoor = "exec.sock"
	// SSHAgentDoor lets a container use an ssh-agent of the visitor's, see SSHAgentRequest.
	SSHAgentDoor = "ssh-agent.sock"
	// client.SessionDoor has a further session behind it, client.LogDoor the guest's log.
)

// openDoors opens all doors.
func (s *Sandbox) openDoors() error {
	for _, d := range []struct {
		network, name string
		serve         func(ctx context.Context, visitor *net.UnixConn)
	}{
		{"unix", AgentDoor, s.serveRequests},
		{"unix", StreamDoor, s.serveStream},
		{"unix", ConsoleDoor, s.serveConsole},
		{"unix", client.SessionDoor, s.servePort(protocol.WorkloadPort)},
		{"unix", client.LogDoor, s.servePort(protocol.LogPort)},
		{"unixpacket", CommandDoor, s.serveCommand},
		{"unix", SSHAgentDoor, s.serveSSHAgent},
	} {
		if err := s.openDoor(d.network, d.name, d.serve); err != nil {
			return err
		}
	}
	return nil
}

// openDoor opens one of them. See door.Open.
func (s *Sandbox) openDoor(network, name string, serve func(ctx context.Context, visitor *net.UnixConn)) error {
	d, err := door.Open(network, filepath.Join(s.dir.path, name), s.log, func(ctx context.Context, visitor *net.UnixConn) {
		if name != ConsoleDoor {
			s.visited.Store(true)
		}
		serve(ctx, visitor)
	})
	if err != nil {
		return err
	}
	s.undo.push("close the door "+name, func(context.Context) error {
		d.Close()
		return nil
	})
	go func() { // not every backend of vsock ends its connections with the machine
		<-s.lost
		d.Close()
	}()
	return nil
}

// serveRequests joins a visitor to the agent's service for machine requests.
func (s *Sandbox) serveRequests(ctx context.Context, visitor *net.UnixConn) {
	agent, err := s.guest.DialUnix(ctx, protocol.RequestSocket)
	if err != nil {
		s.log.Warn("the agent's service for requests is not to be reached", "error", err)
		return
	}
	defer agent.Close()
	defer context.AfterFunc(ctx, func() { _ = agent.Close() })() // who writes to it may have to wait for its reader
	if err := protocol.Join(visitor, agent); err != nil {
		s.log.Debug("connection with the agent's service for requests reset", "error", err)
	}
}

// serveStream joins a visitor to the byte stream that he asks for.
func (s *Sandbox) serveStream(ctx context.Context, visitor *net.UnixConn) {
	if err := streamsidecar.OfGuest(s.guest).Serve(ctx, visitor); err != nil && ctx.Err() == nil {
		s.log.Debug("byte stream of a visitor reset", "error", err)
	}
}

// servePort joins visitors to a port of the guest, whose conversation is over when one of the two hangs up.
func (s *Sandbox) servePort(port uint32) func(context.Context, *net.UnixConn) {
	return func(ctx context.Context, visitor *net.UnixConn) {
		guest, err := s.guest.Dial(ctx, port)
		if err != nil {
			s.log.Warn("a port of the guest is not to be reached", "port", port, "error", err)
			return
		}
		defer guest.Close()
		defer context.AfterFunc(ctx, func() { _ = guest.Close() })() // who writes to it may have to wait for its reader
		go func() {
			defer visitor.Close()
			_, _ = io.Copy(visitor, guest) // whatever ends it
		}()
		// Without the methods by which connections are copied at once, in writes of any size.
		_, _ = io.CopyBuffer(struct{ io.Writer }{guest}, struct{ io.Reader }{visitor}, make([]byte, protocol.MaxWrite))
	}
}
