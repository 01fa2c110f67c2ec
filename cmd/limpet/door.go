package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/runtime"
)

// openDoor connects to a door of a sandbox. The connection is the caller's.
func openDoor(ctx context.Context, found runtime.Found, name string) (*net.UnixConn, error) {
	path, err := doorPath(found, name)
	if err != nil {
		return nil, err
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return nil, fmt.Errorf("sandbox %s has just ended, or was made by a limpet that did not have %s yet: %w", found.ID, name, err)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("sandbox %s is not yours: only its owner and root reach it: %w", found.ID, err)
	case err != nil:
		return nil, fmt.Errorf("reach sandbox %s: %w", found.ID, err)
	}
	return conn.(*net.UnixConn), nil
}

// doorPath is the path of a door of a sandbox that runs.
func doorPath(found runtime.Found, name string) (string, error) {
	switch found.State {
	case runtime.SandboxRunning:
		return found.Door(name), nil
	case runtime.SandboxCreating:
		return "", fmt.Errorf("sandbox %s is just being made: try again", found.ID)
	case runtime.SandboxOrphaned:
		return "", fmt.Errorf("sandbox %s is orphaned, because its process %s (%d) was killed: `limpet rm %s` removes what is left of it",
			found.ID, found.Holder.Name, found.Holder.PID, found.ID)
	}
	return "", fmt.Errorf("sandbox %s is %s: its machine has ended", found.ID, found.State)
}

// copyUntil copies what a connection says until its end or until ctx ends, which is no error.
func copyUntil(ctx context.Context, to io.Writer, conn net.Conn) error {
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	_, err := io.Copy(to, conn)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// awaitEnd returns when the sandbox's machine has ended, or with the context.
func awaitEnd(ctx context.Context, found runtime.Found) error {
	conn, err := openDoor(ctx, found, runtime.ConsoleDoor) // hangs up then
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := copyUntil(ctx, io.Discard, conn); err != nil {
		return err
	}
	if ctx.Err() == nil {
		return fmt.Errorf("sandbox %s has ended", found.ID)
	}
	return nil
}
