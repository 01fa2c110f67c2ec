// Package door is a unix socket by which processes of this host, of the same user or root, reach what another process holds.
package door

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxVisitors bounds the connections of one door at one time: each may cost its holder several descriptors.
	maxVisitors = 64
	// acceptPause is awaited where this process has no descriptor for a connection.
	acceptPause = 100 * time.Millisecond
)

// Door is an open one. Its owner must Close it.
type Door struct {
	listener *net.UnixListener
	logger   *slog.Logger
	end      context.CancelFunc
	visits   sync.WaitGroup
}

// Open listens on a path, which must be free. network is "unix" for a stream or "unixpacket" for datagrams in order. Each visitor is
// served in a goroutine of its own: serve is given a context that ends when the door is closed, and the connection, which is closed when
// serve returns or the context ends. Who may not come in, or comes when too many are in, is hung up on.
func Open(network, path string, logger *slog.Logger, serve func(ctx context.Context, visitor *net.UnixConn)) (*Door, error) {
	listener, err := net.ListenUnix(network, &net.UnixAddr{Name: path, Net: network})
	if err != nil {
		return nil, fmt.Errorf("open a door: %w", err)
	}
	// The directory has kept others out so far.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("open a door: %w", err), listener.Close())
	}
	d := &Door{listener: listener, logger: logger.With("door", path)}
	ctx, end := context.WithCancel(context.Background())
	d.end = end
	d.visits.Go(func() { d.accept(ctx, serve) })
	return d, nil
}

// Close removes the socket, hangs up on every visitor and waits until their goroutines have ended. It may be called more than once.
func (d *Door) Close() {
	d.end()
	_ = d.listener.Close() // fails only if it is closed
	d.visits.Wait()
}

func (d *Door) accept(ctx context.Context, serve func(context.Context, *net.UnixConn)) {
	places := make(chan struct{}, maxVisitors)
	for ctx.Err() == nil {
		visitor, err := d.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			d.logger.Warn("cannot accept a visitor", "error", err)
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
			continue
		}
		if err := admit(visitor, places); err != nil {
			d.logger.Warn("visitor refused", "error", err)
			_ = visitor.Close() // nothing was said
			continue
		}
		d.visits.Go(func() {
			defer func() { <-places }()
			defer visitor.Close()
			defer context.AfterFunc(ctx, func() { _ = visitor.Close() })()
			serve(ctx, visitor)
		})
	}
}

// admit takes a place for a visitor that may come in.
func admit(visitor *net.UnixConn, places chan struct{}) error {
	peer, err := Peer(visitor)
	if err != nil {
		return err
	}
	if peer.Uid != 0 && int(peer.Uid) != os.Geteuid() {
		return fmt.Errorf("process %d is of user %d, who may not come in", peer.Pid, peer.Uid)
	}
	select {
	case places <- struct{}{}:
		return nil
	default:
		return fmt.Errorf("there are %d already, the most at one time", maxVisitors)
	}
}

// Peer says who has connected: his process, user and group at that time.
func Peer(visitor *net.UnixConn) (*unix.Ucred, error) {
	raw, err := visitor.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("look at a visitor: %w", err)
	}
	var peer *unix.Ucred
	var peerErr error
	if err := raw.Control(func(fd uintptr) { peer, peerErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return nil, fmt.Errorf("look at a visitor: %w", err)
	}
	if peerErr != nil {
		return nil, fmt.Errorf("look at a visitor: %w", peerErr)
	}
	return peer, nil
}
