package requests

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/limpet-run/limpet/guest/agent/container"
	"github.com/limpet-run/limpet/guest/protocol"
)

const (
	// maxConns bounds the connections: each costs some 40 KiB of a small guest's memory while it is silent.
	maxConns = 64
	// largeMessage is the size in bytes from which only one message at a time is read, on whichever connection: a guest may have less memory
	// than a handful of messages of MaxPayload take. What needs not be split, a chunk of a file, is smaller.
	largeMessage = 2 << 20
)

// Options are what a Server needs of its surroundings.
type Options struct {
	// Containers runs what is asked for. They are of this server's alone; the Streams and Reporter of NewJobs are theirs.
	Containers *container.Set
	Jobs       *Jobs
	Images     Images
	// Roots opens the roots of the other containers of the machine.
	Roots Roots
	// Tools brings the programs that the host has for the guest, once, to protocol.ToolsDir.
	Tools   func(ctx context.Context) error
	Busybox string // the one of them that a command in the machine runs if it is not found otherwise
	// Files brings the files of the host that programs need which use the network; those that it does not give stay missing.
	Files func(ctx context.Context)
	// Shutdown begins to end the machine. It is called after the answer.
	Shutdown func()
	Logger   *slog.Logger
}

// Server serves machine requests. Its zero value is not ready: use New.
type Server struct {
	Options
	large chan struct{} // holds one element while a large message is in memory

	mu       sync.Mutex
	conns    map[*conn]struct{}
	captured int // bytes of output that is collected, in all
}

// New makes a server.
func New(options Options) *Server {
	return &Server{Options: options, large: make(chan struct{}, 1), conns: map[*conn]struct{}{}}
}

// Serve accepts connections until the listener fails. The listener is the caller's; what it accepts is trusted to ask for anything.
func (s *Server) Serve(listener net.Listener) error {
	for {
		raw, err := listener.Accept()
		if err != nil {
			return fmt.Errorf("accept machine requests: %w", err)
		}
		c := newConn(s, raw)
		if !s.admit(c) {
			s.Logger.Warn("connection for machine requests refused: all others are busy", "limit", maxConns)
			raw.Close()
			continue
		}
		go func() {
			defer s.leave(c)
			c.serve()
		}()
	}
}

// Listen listens on a unix socket that is root's alone.
func Listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		listener.Close()
		return nil, err
	}
	return listener, nil
}

// admit makes room for a connection, if need be in place of the one that has been silent longest.
func (s *Server) admit(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) >= maxConns {
		silent := s.mostSilent()
		if silent == nil {
			return false
		}
		delete(s.conns, silent)
		silent.cancel(errSilent)
	}
	s.conns[c] = struct{}{}
	return true
}

// mostSilent is the connection that has waited longest for a request; nil if all are served. s.mu is held.
func (s *Server) mostSilent() *conn {
	var silent *conn
	for c := range s.conns {
		if !c.waiting.IsZero() && (silent == nil || c.waiting.Before(silent.waiting)) {
			silent = c
		}
	}
	return silent
}

func (s *Server) leave(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// setWaiting notes whether a connection waits for a request.
func (s *Server) setWaiting(c *conn, waiting bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.waiting = time.Time{}
	if waiting {
		c.waiting = time.Now()
	}
}

// root opens the root directory of a container, whoever runs it.
func (s *Server) root(id string) (*os.File, error) {
	if strings.HasPrefix(id, namePrefix) {
		return s.Containers.Root(id)
	}
	return s.Roots(id)
}

// dispatch serves one request that is answered once, or streams its answers itself.
func (s *Server) dispatch(ctx context.Context, c *conn, request protocol.AgentRequest) (protocol.AgentResponse, error) {
	switch request.(type) {
	case protocol.PullRequest, protocol.NetworkTestRequest, protocol.RunRequest:
		s.Files(ctx)
	}
	switch r := request.(type) {
	case protocol.PingRequest:
		return protocol.PongResponse{Version: protocol.Version}, nil
	case protocol.VMExecRequest:
		return c.vmExec(ctx, r)
	case protocol.RunRequest:
		return c.run(ctx, r)
	case protocol.FileWriteRequest:
		return c.fileWrite(r)
	case protocol.FileWriteBeginRequest:
		return c.fileWriteBegin(r)
	case protocol.FileWriteChunkRequest:
		return c.fileWriteChunk(r)
	case protocol.FileReadRequest:
		return c.fileRead(ctx, r)
	case protocol.ShutdownRequest:
		c.after = s.Shutdown
		return protocol.OKResponse{}, nil
	case protocol.StdinRequest, protocol.ResizeRequest:
		return nil, invalid("no command runs on this connection")
	}
	return c.images(ctx, request)
}
