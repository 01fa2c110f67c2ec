package container

import (
	"context"
	"fmt"

	runc "github.com/containerd/go-runc"
	"golang.org/x/sys/unix"
)

// consoleSocket is where crun sends the controlling end of the terminal that it made inside the container.
type consoleSocket struct{ *runc.Socket }

func openConsoleSocket() (consoleSocket, error) {
	socket, err := runc.NewTempConsoleSocket()
	if err != nil {
		return consoleSocket{}, fmt.Errorf("open the console socket: %w", err)
	}
	return consoleSocket{socket}, nil
}

// receive takes the terminal. crun has ended by then: what it sent is in the socket.
func (c consoleSocket) receive(ctx context.Context) (*terminal, error) {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	console, err := c.ReceiveMaster()
	if err != nil {
		return nil, fmt.Errorf("receive the terminal: %w", err)
	}
	defer console.Close()
	// A duplicate, because a console.Console can be read only with a thread that waits.
	fd, err := unix.FcntlInt(console.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("receive the terminal: %w", err)
	}
	return newTerminal(fd)
}
