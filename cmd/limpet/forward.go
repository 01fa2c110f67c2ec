package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/runtime"
	"github.com/limpet-run/limpet/runtime/forward"
)

func forwardCommand() *cli.Command {
	return &cli.Command{
		Name:      "forward",
		Usage:     "make TCP ports of a sandbox's localhost reachable on this host",
		ArgsUsage: "SANDBOX [HOST:]PORT...",
		Description: "Each PORT is listened on at the same port of this host, or at HOST, 0 for a free one, until Ctrl-C or the sandbox's\n" +
			"end. It needs no network of the sandbox's. Of a port at which nobody listens in the guest, connections are reset.\n" +
			referenceUsage,
		Flags: sandboxFlags(
			&cli.StringFlag{Name: "address", Value: "127.0.0.1", Usage: "the host's `ADDRESS` to listen at; 0.0.0.0 lets everybody in"}),
		OnUsageError: onUsageError,
		Before:       arguments(2, -1),
		Action:       forwardUntilEnd,
	}
}

// forwarded is a port to forward.
type forwarded struct{ host, guest uint16 }

// parseForwarded reads [HOST:]PORT.
func parseForwarded(text string) (forwarded, error) {
	host, guest, both := strings.Cut(text, ":")
	if !both {
		guest = host
	}
	from, err := strconv.ParseUint(host, 10, 16)
	to, guestErr := strconv.ParseUint(guest, 10, 16)
	if err != nil || guestErr != nil || to == 0 {
		return forwarded{}, usageError{fmt.Errorf("%q is no port to forward: want [HOST:]PORT, such as 80 or 8080:80", text)}
	}
	return forwarded{uint16(from), uint16(to)}, nil
}

func forwardUntilEnd(c *cli.Context) error {
	var ports []forwarded
	for _, text := range c.Args().Tail() {
		port, err := parseForwarded(text)
		if err != nil {
			return err
		}
		ports = append(ports, port)
	}
	found, err := findSandbox(c, c.Args().First())
	if err != nil {
		return err
	}
	if _, err := doorPath(found, runtime.StreamDoor); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(c.Context)
	defer cancel(nil)
	go func() { cancel(awaitEnd(ctx, found)) }()
	dial := func(ctx context.Context, port uint16) (protocol.HalfCloser, error) {
		stream, err := dialPort(ctx, found, port)
		if err != nil && ctx.Err() == nil {
			fmt.Fprintf(c.App.ErrWriter, "limpet: connection to port %d reset: %s\n", port, errorText(err))
		}
		return stream, err
	}
	forwarder := forward.New(dial, slog.New(slog.NewTextHandler(c.App.ErrWriter, nil)))
	defer forwarder.Close()
	for _, port := range ports {
		address := net.JoinHostPort(c.String("address"), strconv.Itoa(int(port.host)))
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
		if err != nil {
			return fmt.Errorf("listen for port %d: %w: choose another one, as in 0:%d for a free one", port.guest, err, port.guest)
		}
		if err := forwarder.Listen(listener, func(*net.TCPConn) (uint16, error) { return port.guest, nil }); err != nil {
			return err
		}
		fmt.Fprintf(c.App.Writer, "%s -> %d\n", listener.Addr(), port.guest)
	}
	<-ctx.Done()
	if c.Context.Err() != nil { // Ctrl-C
		return nil
	}
	return context.Cause(ctx)
}

// dialPort connects to a TCP port of a guest's localhost.
func dialPort(ctx context.Context, found runtime.Found, port uint16) (protocol.HalfCloser, error) {
	conn, err := openDoor(ctx, found, runtime.StreamDoor)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	err = protocol.WritePreamble(conn, protocol.Preamble{Kind: protocol.StreamTCP, Port: port})
	if err == nil {
		err = protocol.ReadStatus(conn)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("sandbox %s has ended, or has too many connections: %w", found.ID, err)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}
