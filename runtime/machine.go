package runtime

import (
	"context"
	"net"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/hypervisor"
)

// Machine is what a sandbox needs of its virtual machine. See hypervisor.Machine.
type Machine interface {
	Wait(ctx context.Context) error
	Stop(ctx context.Context) error
	Processes() []hypervisor.Process
	Console() string
}

// Guest is what a sandbox needs of its session with the agent. See client.Session.
type Guest interface {
	WaitReady(ctx context.Context) (protocol.Hello, error)
	Call(ctx context.Context, message protocol.HostMessage) (protocol.GuestMessage, error)
	OpenStream(ctx context.Context, token protocol.Token) (net.Conn, error)
	Close() error
}
