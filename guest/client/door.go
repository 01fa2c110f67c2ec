package client

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
)

// The names in a sandbox's state directory by which other programs of this host reach its guest.
const (
	// TokenFile has the token of the sessions. It is for the sandbox's owner only.
	TokenFile = "token"
	// SessionDoor leads to the agent's further sessions, LogDoor to its log, StreamDoor to its byte streams.
	SessionDoor = "session.sock"
	LogDoor     = "log.sock"
	StreamDoor  = "stream.sock"
)

// Open begins a further session with the agent of the sandbox whose state directory it is, and waits until it is ready. It may ask for
// statistics and processes, start processes (protocol.FurtherRequest), send signals and wait; it hears of the processes that it has
// started. handler may be nil if that is none. The session must be closed.
func Open(ctx context.Context, dir string, handler Handler, logger *slog.Logger) (*Session, error) {
	token, err := os.ReadFile(filepath.Join(dir, TokenFile))
	if err != nil {
		return nil, fmt.Errorf("read the sandbox's token: %w", err)
	}
	if handler == nil {
		handler = nobody{}
	}
	name, err := protocol.NewToken().MarshalText()
	if err != nil {
		return nil, err
	}
	session := New(&doors{dir: dir, free: make(chan struct{}, 1)}, Options{
		Token: strings.TrimSpace(string(token)), Handler: handler, Logger: logger, Name: string(name),
	})
	if _, err := session.WaitReady(ctx); err != nil {
		_ = session.Close()
		return nil, fmt.Errorf("open a session with the sandbox of %s: %w", dir, err)
	}
	return session, nil
}

// doors is a Transport by the doors in a sandbox's state directory: connections that this side dials take the place of those that the
// guest does.
type doors struct {
	dir  string
	free chan struct{} // holds one element when a connection of Accept has been closed
	used bool
}

// Accept implements Transport: it waits until the connection before is closed, and dials.
func (d *doors) Accept(ctx context.Context) (net.Conn, error) {
	if d.used {
		select {
		case <-d.free:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	conn, err := d.dial(ctx, SessionDoor)
	if err != nil {
		return nil, err
	}
	d.used = true
	return &doorConn{Conn: conn, closed: sync.OnceFunc(func() { d.free <- struct{}{} })}, nil
}

// Dial implements Transport.
func (d *doors) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	if port != protocol.StreamPort {
		return nil, fmt.Errorf("no door leads to the guest's port %d: %w", port, errdefs.ErrNotImplemented)
	}
	return d.dial(ctx, StreamDoor)
}

func (d *doors) dial(ctx context.Context, door string) (net.Conn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", filepath.Join(d.dir, door))
	if err != nil {
		return nil, fmt.Errorf("the sandbox is not there any more, or never was: %w", err)
	}
	return conn, nil
}

// doorConn is a connection that tells when it is closed.
type doorConn struct {
	net.Conn
	closed func()
}

// Close implements net.Conn.
func (c *doorConn) Close() error {
	defer c.closed()
	return c.Conn.Close()
}

// nobody is a Handler that is told nothing of interest.
type nobody struct{}

func (nobody) Exit(protocol.Exit)           {}
func (nobody) StreamEnd(protocol.StreamEnd) {}
func (nobody) Event(protocol.Event)         {}

// Logs reads the log of a sandbox's guest: that of the agent, and that of its kernel.
type Logs struct {
	*protocol.LogReader
	conn net.Conn
}

// OpenLogs opens the log of the sandbox whose state directory it is: what is kept, then what comes, until Close or the sandbox's end.
func OpenLogs(ctx context.Context, dir string) (*Logs, error) {
	doors := doors{dir: dir}
	conn, err := doors.dial(ctx, LogDoor)
	if err != nil {
		return nil, fmt.Errorf("open the guest's log: %w", err)
	}
	return &Logs{protocol.NewLogReader(conn), conn}, nil
}

// Close ends the reading.
func (l *Logs) Close() error { return l.conn.Close() }
