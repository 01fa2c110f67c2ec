package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

// followPause is awaited between two of the guest's lists: less than an honest guest leaves, and enough that another one does not keep
// the host busy.
const followPause = 50 * time.Millisecond

// Follow listens on the host to what the guest listens on, at the same ports: at every address of the host, or at loopback only, as the
// guest does. The stream, which is the forwarder's, tells of it. A port that is taken on the host is left to whom it belongs, which is
// logged once.
// ErrUnavailable: the forwarder is closed, and so is the stream.
func (f *Forwarder) Follow(stream io.ReadCloser) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return errors.Join(fmt.Errorf("the forwarder is closed: %w", errdefs.ErrUnavailable), stream.Close())
	}
	f.tasks.Go(func() {
		defer context.AfterFunc(f.ctx, func() { _ = stream.Close() })() // ends the read
		defer stream.Close()
		err := f.follow(stream)
		if f.ctx.Err() == nil {
			f.logger.Warn("the host no longer learns who listens in the guest", "error", err)
		}
	})
	return nil
}

// follow is the work of Follow. It returns when the stream ends.
func (f *Forwarder) follow(stream io.Reader) error {
	open := map[protocol.Listener][]net.Listener{} // by what of the guest they are for; empty where a port is taken
	said := map[uint16]bool{}                      // the ports that were
	for {
		listeners, err := protocol.ReadListeners(stream)
		if err != nil {
			return err // those that are open stay: their connections are dialled all the same
		}
		wanted := map[protocol.Listener]bool{}
		for _, listener := range listeners {
			wanted[listener] = true
		}
		for listener, ours := range open {
			if !wanted[listener] {
				closeAll(ours)
				delete(open, listener)
			}
		}
		for _, listener := range listeners {
			if _, ok := open[listener]; ok {
				continue
			}
			ours, err := listenLike(listener)
			if err != nil && !said[listener.Port] {
				said[listener.Port] = true
				f.logger.Warn("a port that the guest listens on is not to be had on the host: connections there do not reach the guest",
					"port", listener.Port, "error", err)
			}
			for _, one := range ours {
				if err := f.Listen(one, func(*net.TCPConn) (uint16, error) { return listener.Port, nil }); err != nil {
					return err
				}
			}
			open[listener] = ours
		}
		select {
		case <-time.After(followPause):
		case <-f.ctx.Done():
			return f.ctx.Err()
		}
	}
}

// listenLike listens on the host as the guest does.
func listenLike(listener protocol.Listener) (listeners []net.Listener, err error) {
	for _, host := range hosts(listener) {
		one, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(int(listener.Port))))
		if host == "::1" && (errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT)) {
			continue // a host without IPv6
		}
		if err != nil {
			closeAll(listeners)
			return nil, err
		}
		listeners = append(listeners, one)
	}
	return listeners, nil
}

// hosts are the addresses at which the host listens; empty is every one.
func hosts(listener protocol.Listener) []string {
	if listener.Loopback {
		return []string{"127.0.0.1", "::1"}
	}
	return []string{""}
}

func closeAll(listeners []net.Listener) {
	for _, listener := range listeners {
		_ = listener.Close() // fails only if it is closed
	}
}
