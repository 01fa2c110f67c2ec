package shim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"time"

	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
)

const (
	// socketDescriptor is where start passes the listening socket: the first after the standard ones.
	socketDescriptor = 3
	// startGCPercent lets the heap of a server grow to 16 MiB before it is collected. The start of a sandbox needs less, and has better uses
	// for the ten milliseconds of a processor that collecting would take.
	startGCPercent = 400
	// gcPercent keeps the heap of a server small from settleTime after its sandbox was made on: a host has one for each sandbox, and it
	// allocates little.
	gcPercent  = 40
	settleTime = 2 * time.Second
	// hangUpTimeout is how long a server that is done waits for its clients to hang up. containerd does so as soon as it has the reply to
	// Shutdown, and leaves the rest to `delete`, which does not wait.
	hangUpTimeout = time.Second
)

// serve is the server process of a sandbox: it serves the task service until Shutdown without tasks, or a signal, which ends the tasks.
func (c command) serve(runtime Runtime) error {
	logger := newLogger(c)
	err := c.serveTasks(runtime, logger)
	if err != nil {
		logger.Error("server ends", "error", err)
	}
	return err
}

func (c command) serveTasks(runtime Runtime, logger *slog.Logger) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ends, err := prepareServer(ctx, logger)
	if err != nil {
		return err
	}
	listener, err := listenerOf(os.NewFile(socketDescriptor, "socket"))
	if err != nil {
		return fmt.Errorf("descriptor %d: %w: this program is started by containerd", socketDescriptor, err)
	}
	defer listener.Close()
	c.stages.add(verbServe)
	return serveUntilGone(c.newService(runtime, logger), listener, ends)
}

// prepareServer makes this process one that can serve a sandbox, until ctx ends. It returns the signals that end it.
func prepareServer(ctx context.Context, logger *slog.Logger) (<-chan os.Signal, error) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(startGCPercent)
	}
	if err := adoptOrphans(ctx, logger); err != nil {
		return nil, err
	}
	// Noted and not ignored: children would inherit that it is ignored.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, unix.SIGTERM, unix.SIGINT)
	return ends, nil
}

// newService makes the service of the sandbox that the command names.
func (c command) newService(runtime Runtime, logger *slog.Logger) *service {
	events := newPublisher(c.namespace, newContainerdForwarder(c.ttrpcAddress), logger)
	service := newService(c.id, c.namespace, c.bundle, runtime, logger)
	service.events = events
	service.settle = settle
	service.closed = func() {
		if err := os.Remove(c.socket); err != nil && !errors.Is(err, os.ErrNotExist) {
			logger.Warn("socket not removed", "error", err)
		}
	}
	service.before = c.stages
	return service
}

// settle has this process give back, in a while, what the start took.
func settle() {
	if os.Getenv("GOGC") != "" {
		return
	}
	time.AfterFunc(settleTime, func() {
		debug.SetGCPercent(gcPercent)
		debug.FreeOSMemory()
	})
}

// listenerOf takes the socket that start has made.
func listenerOf(file *os.File) (net.Listener, error) {
	defer file.Close()
	listener, err := net.FileListener(file)
	if err != nil {
		return nil, fmt.Errorf("no listening socket: %w", err)
	}
	return listener, nil
}

// serveUntilGone serves the listener until the service is gone, and ends it on a signal.
func serveUntilGone(service *service, listener net.Listener, ends <-chan os.Signal) error {
	defer service.events.close()
	clients := &clients{welcome: service.events.retry} // who connects is a containerd that is there, perhaps after a restart
	server, err := ttrpc.NewServer(
		ttrpc.WithServerHandshaker(clients),
		ttrpc.WithUnaryServerInterceptor(service.intercept),
	)
	if err != nil {
		return err
	}
	defer server.Close()
	taskapi.RegisterTTRPCTaskService(server, rpcs{service})
	sandboxapi.RegisterTTRPCSandboxService(server, sandboxRPCs{service})
	served := make(chan error, 1)
	go func() { served <- server.Serve(context.Background(), listener) }()

	select {
	case <-service.gone:
	case end := <-ends:
		service.logger.Info("ending sandbox", "signal", end.String())
		service.close(context.Background())
	case err := <-served:
		service.close(context.Background())
		return fmt.Errorf("serve: %w", err)
	}
	listener.Close()
	clients.awaitHangUp(hangUpTimeout)
	return nil
}

// clients counts the connections of a ttrpc server. Its own Shutdown does not do: it takes a connection for idle, and closes it, while a
// call on it waits for its reply to be written.
type clients struct {
	welcome   func() // called for each
	connected sync.WaitGroup
}

// Handshake implements ttrpc.Handshaker: only the user whom the shim runs as may connect.
func (c *clients) Handshake(ctx context.Context, conn net.Conn) (net.Conn, any, error) {
	conn, credentials, err := ttrpc.UnixSocketRequireSameUser().Handshake(ctx, conn)
	if err != nil {
		return nil, nil, err
	}
	c.welcome()
	c.connected.Add(1)
	return &clientConn{Conn: conn, hangUp: sync.OnceFunc(c.connected.Done)}, credentials, nil
}

// awaitHangUp waits until no client is connected any more, at most for timeout.
func (c *clients) awaitHangUp(timeout time.Duration) {
	gone := make(chan struct{})
	go func() {
		c.connected.Wait()
		close(gone)
	}()
	select {
	case <-gone:
	case <-time.After(timeout):
	}
}

// clientConn is a connection that tells of its end.
type clientConn struct {
	net.Conn
	hangUp func()
}

// Close implements net.Conn.
func (c *clientConn) Close() error {
	defer c.hangUp()
	return c.Conn.Close()
}
