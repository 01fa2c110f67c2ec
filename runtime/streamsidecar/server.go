package streamsidecar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/guest/protocol/fifo"
	"github.com/limpet-run/limpet/runtime/door"
)

const (
	// maxVisitors bounds the connections of the TCP listener at one time, as a door does its own.
	maxVisitors = 64
	// acceptPause is awaited where this process has no descriptor for a connection.
	acceptPause = 100 * time.Millisecond
	// dialTimeout is how long containerd may take to accept a connection.
	dialTimeout = 10 * time.Second
)

// Options say what a server for a containerd of this host does.
type Options struct {
	Containerd string // path of containerd's socket
	Socket     string // path of the server's own, for the same user and root; nobody else may serve there
	Output     string // the directory of FIFOs, for nothing else
	// TCP is the address of another listener, HOST:PORT. Empty: there is none. Every user of this host reaches it, and so has containerd's
	// power, which is root's; with Exposed it may be more than loopback, and has no encryption and no password.
	TCP     string
	Exposed bool
	Logger  *slog.Logger
}

// Run serves kinds 0 and 1 for a containerd of this host until ctx ends. ready is told the addresses once they can be connected to. Nothing
// is left afterwards but directories above the socket and the FIFOs.
func Run(ctx context.Context, options Options, ready func(addresses ...string)) (err error) {
	if err := options.check(); err != nil {
		return err
	}
	outputs, err := openOutputs(options.Output)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, outputs.close()) }()
	services := ofHost(options.Containerd, outputs)
	serve := func(ctx context.Context, visitor Visitor) {
		if err := services.Serve(ctx, visitor); err != nil && ctx.Err() == nil {
			options.Logger.Warn("byte stream ended", "error", err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(options.Socket), 0o700); err != nil {
		return fmt.Errorf("make the socket's directory: %w", err)
	}
	if err := door.Clear("unix", options.Socket); err != nil {
		return err
	}
	socket, err := door.Open("unix", options.Socket, options.Logger, func(ctx context.Context, visitor *net.UnixConn) { serve(ctx, visitor) })
	if err != nil {
		return err
	}
	defer socket.Close()
	addresses := []string{options.Socket}
	if options.TCP != "" {
		listener, err := net.Listen("tcp", options.TCP)
		if err != nil {
			return fmt.Errorf("serve byte streams: %w", err)
		}
		addresses = append(addresses, listener.Addr().String())
		defer serveTCP(ctx, listener.(*net.TCPListener), options.Logger, serve)()
	}
	ready(addresses...)
	<-ctx.Done()
	return nil
}

// check refuses what nobody can have meant.
func (o Options) check() error {
	for _, path := range []string{o.Containerd, o.Socket, o.Output} {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("path %q is not absolute: %w", path, errdefs.ErrInvalidArgument)
		}
	}
	if o.TCP == "" || o.Exposed {
		return nil
	}
	host, _, err := net.SplitHostPort(o.TCP)
	if err != nil {
		return fmt.Errorf("TCP address: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if address, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !address.IsLoopback()) {
		return fmt.Errorf("TCP address %s is not one of loopback: who reaches it has root's power over this host; if that is meant, say "+
			"so (--tcp-exposed): %w", o.TCP, errdefs.ErrInvalidArgument)
	}
	return nil
}

// ofHost are kinds 0 and 1 for a containerd of this host.
func ofHost(containerd string, outputs *outputs) Services {
	return Services{
		protocol.StreamContainerd: unanswered(func(ctx context.Context, _ protocol.Preamble) (protocol.HalfCloser, error) {
			dialer := net.Dialer{Timeout: dialTimeout}
			conn, err := dialer.DialContext(ctx, "unix", containerd)
			if err != nil {
				return nil, fmt.Errorf("connect to containerd: %w", err)
			}
			return conn.(protocol.HalfCloser), nil
		}, join),
		protocol.StreamOutput: unanswered(func(context.Context, protocol.Preamble) (*fifo.Output, error) {
			return outputs.open()
		}, func(visitor Visitor, output *fifo.Output) error { return pour(visitor, output) }),
	}
}

// serveTCP serves the visitors of a listener until the context ends. The function that it returns waits for the end of all of it.
func serveTCP(ctx context.Context, listener *net.TCPListener, logger *slog.Logger, serve func(context.Context, Visitor)) (wait func()) {
	var visits sync.WaitGroup
	places := make(chan struct{}, maxVisitors)
	context.AfterFunc(ctx, func() { _ = listener.Close() })
	visits.Go(func() {
		for {
			visitor, err := listener.AcceptTCP()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				logger.Warn("cannot accept a visitor", "error", err)
				select {
				case <-time.After(acceptPause):
				case <-ctx.Done():
				}
				continue
			}
			select {
			case places <- struct{}{}:
			default:
				logger.Warn("visitor refused: there are too many", "limit", maxVisitors)
				protocol.Reset(visitor)
				continue
			}
			visits.Go(func() {
				defer func() { <-places }()
				defer visitor.Close()
				defer context.AfterFunc(ctx, func() { protocol.Reset(visitor) })()
				serve(ctx, visitor)
			})
		}
	})
	return visits.Wait
}
