package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

// PrepareRehearsal writes down what a host says to an agent until the agent is ready. rehearse, which is called once, has that session: what
// a program does for the first time takes an emulator many times as long as doing it again. The agent is one that never has another.
func (a *Agent) PrepareRehearsal(ctx context.Context) (rehearse func(context.Context) error, err error) {
	guest, host, err := socketPair()
	if err != nil {
		return nil, fmt.Errorf("rehearse a session: %w", err)
	}
	conn := protocol.NewHostConn(host)
	auth := protocol.Auth{Token: "rehearsal", ProtocolVersion: protocol.Version, Clock: new(int64), Entropy: make([]byte, 1)}
	if err := errors.Join(conn.WriteCommand(ctx, 1, auth), host.(*net.UnixConn).CloseWrite()); err != nil {
		return nil, errors.Join(fmt.Errorf("rehearse a session: %w", err), guest.Close(), host.Close())
	}
	return func(ctx context.Context) error {
		defer host.Close()
		ready, err := a.converse(ctx, guest, 0, a.enterOwn)
		if !ready || !errors.Is(err, io.EOF) {
			return fmt.Errorf("rehearse a session: %w", err)
		}
		return nil
	}, nil
}

// socketPair makes two connections, each the other's end.
func socketPair() (a, b net.Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "socket")
		conn, connErr := net.FileConn(file)
		conns[i], err = conn, errors.Join(err, connErr, file.Close())
	}
	return conns[0], conns[1], err
}
