package qemu

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/hypervisor/internal/child"
)

// shareServer is the daemon of a share before that is plugged.
type shareServer struct {
	dir   string
	ready chan struct{} // closed when the following are set
	// daemon and the connection to it, whose they are who plugs the share.
	daemon     *child.Child
	connection *os.File
	err        error
}

// serve starts the daemon of a share, in the background: it takes about as long as QEMU takes to come up.
func (p *plan) serve(share hypervisor.Share) *shareServer {
	s := &shareServer{dir: share.Dir, ready: make(chan struct{})}
	go func() {
		defer close(s.ready)
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		s.daemon, s.connection, s.err = p.startVirtiofsd(ctx, share)
	}()
	return s
}

// serveAll starts the daemons of the shares that the machine is to have, by the shares' identifiers.
func (p *plan) serveAll() map[string]*shareServer {
	servers := map[string]*shareServer{}
	for _, share := range p.config.Shares {
		servers[share.ID] = p.serve(share)
	}
	return servers
}

// end ends the daemon, unless it could not be started.
func (s *shareServer) end() {
	<-s.ready
	if s.err == nil {
		s.daemon.Kill()
		<-s.daemon.Done()
		_ = s.connection.Close() // nobody is at its other end
	}
}

// takeServer returns the daemon of a share and the connection to it, which are the caller's.
func (m *machine) takeServer(ctx context.Context, share hypervisor.Share) (*child.Child, *os.File, error) {
	m.mu.Lock()
	server := m.servers[share.ID]
	if server == nil {
		server = m.plan.serve(share)
		m.servers[share.ID] = server
	}
	m.mu.Unlock()
	if server.dir != share.Dir {
		return nil, nil, fmt.Errorf("%s is served, not %s: %w", server.dir, share.Dir, errdefs.ErrInvalidArgument)
	}
	select {
	case <-server.ready:
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("start virtiofsd: %w", ctx.Err()) // it goes with the machine
	}
	m.mu.Lock()
	delete(m.servers, share.ID)
	m.mu.Unlock()
	return server.daemon, server.connection, server.err
}

// endServers ends the daemons of shares that were not plugged.
func (m *machine) endServers() {
	m.mu.Lock()
	servers := m.servers
	m.servers = nil
	m.mu.Unlock()
	for _, server := range servers {
		server.end()
	}
}
