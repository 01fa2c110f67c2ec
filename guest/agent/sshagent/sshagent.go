// Package sshagent is the user's ssh-agent as containers see it: a socket in each container that has it, whose clients are joined to the
// host.
package sshagent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

// socketMode lets every user of the container use the agent, as it is asked for by the container's name.
const socketMode = 0o666

// Server makes the sockets.
type Server struct {
	root   func(container string) (*os.File, error)
	dial   func(ctx context.Context, port uint32, token protocol.Token) (net.Conn, error)
	logger *slog.Logger
	places chan struct{} // one element for each client

	mu     sync.Mutex
	offers map[string]*offer // by container
}

// offer is one container's socket.
type offer struct {
	listener *net.UnixListener
	end      context.CancelFunc // ends its clients
}

// New makes a server without a socket. root opens a container's root directory as its processes see it; dial connects to a port of the
// host's and says the token.
func New(root func(container string) (*os.File, error),
	dial func(ctx context.Context, port uint32, token protocol.Token) (net.Conn, error), logger *slog.Logger) *Server {
	return &Server{
		root: root, dial: dial, logger: logger, places: make(chan struct{}, protocol.MaxSSHAgentClients), offers: map[string]*offer{},
	}
}

// Offer makes a container's socket, in place of one that is there, or takes it away.
func (s *Server) Offer(m protocol.SSHAgent) error {
	s.Forget(m.ContainerID)
	root, err := s.root(m.ContainerID)
	if err != nil {
		return err
	}
	defer root.Close()
	dev, err := openDev(root)
	if err != nil {
		return fmt.Errorf("ssh-agent for container %s: %w", m.ContainerID, err)
	}
	defer dev.Close()
	if err := remove(dev); err != nil || m.Port == 0 {
		return err
	}
	listener, err := listen(dev)
	if err != nil {
		return fmt.Errorf("ssh-agent for container %s: %w", m.ContainerID, err)
	}
	ctx, end := context.WithCancel(context.Background())
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.offers[m.ContainerID] != nil {
		end()
		return errors.Join(fmt.Errorf("ssh-agent for container %s: %w", m.ContainerID, errdefs.ErrAlreadyExists), listener.Close())
	}
	s.offers[m.ContainerID] = &offer{listener, end}
	go s.serve(ctx, listener, m)
	return nil
}

// Forget ends a container's clients, if it has any. The socket goes with the container.
func (s *Server) Forget(container string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.offers[container]; old != nil {
		delete(s.offers, container)
		old.end()
		_ = old.listener.Close() // fails only if it is closed
	}
}

// socketName is its name in the directory.
var socketName = path.Base(protocol.SSHAgentSocket)

// openDev opens a container's /dev, wherever the container's links lead. One that is not in memory is not the one of a container that runs.
func openDev(root *os.File) (*os.File, error) {
	dir := path.Dir(protocol.SSHAgentSocket)
	fd, err := unix.Openat2(int(root.Fd()), dir, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, fmt.Errorf("open its %s: %w", dir, err)
	}
	dev := os.NewFile(uintptr(fd), dir)
	var stat unix.Statfs_t
	if err := unix.Fstatfs(fd, &stat); err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	if stat.Type != unix.TMPFS_MAGIC {
		return nil, errors.Join(fmt.Errorf("it does not run: %w", errdefs.ErrFailedPrecondition), dev.Close())
	}
	return dev, nil
}

// remove removes what has the socket's name; that there is nothing is no error.
func remove(dev *os.File) error {
	if err := unix.Unlinkat(int(dev.Fd()), socketName, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove %s: %w", protocol.SSHAgentSocket, err)
	}
	return nil
}

func listen(dev *os.File) (*net.UnixListener, error) {
	name := fmt.Sprintf("/proc/self/fd/%d/%s", dev.Fd(), socketName)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false) // the name means something else then
	// The container could put a link there: it is not followed.
	if err := unix.Fchmodat(int(dev.Fd()), socketName, socketMode, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// serve serves clients until the listener is closed. Those beyond the limit wait.
func (s *Server) serve(ctx context.Context, listener *net.UnixListener, at protocol.SSHAgent) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		select {
		case s.places <- struct{}{}:
		case <-ctx.Done():
			client.Close()
			return
		}
		go func() {
			defer func() { <-s.places }()
			defer client.Close()
			if err := s.relay(ctx, client, at); !errors.Is(err, io.EOF) && ctx.Err() == nil {
				s.logger.Warn("client of the ssh-agent hung up on", "error", err)
			}
		}()
	}
}

// relay passes requests and answers on, one at a time, until one side hangs up.
func (s *Server) relay(ctx context.Context, client net.Conn, at protocol.SSHAgent) error {
	host, err := s.dial(ctx, at.Port, at.Token)
	if err != nil {
		return fmt.Errorf("reach the host's ssh-agent: %w", err)
	}
	defer host.Close()
	defer context.AfterFunc(ctx, func() { client.Close(); host.Close() })()
	for {
		if err := protocol.CopySSHAgentMessage(host, client); err != nil {
			return err
		}
		if err := protocol.CopySSHAgentMessage(client, host); err != nil {
			return err
		}
	}
}
