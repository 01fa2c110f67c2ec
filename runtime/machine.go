package runtime

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/limpet-run/limpet/guest/client"
	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/hypervisor/vsock"
	"github.com/limpet-run/limpet/runtime/config"
)

// Machine is what a sandbox needs of its virtual machine. See hypervisor.Machine.
type Machine interface {
	Wait(ctx context.Context) error
	Stop(ctx context.Context) error
	Plug(ctx context.Context, device hypervisor.Device) error
	Unplug(ctx context.Context, id string, letGo func(context.Context) error) error
	AttachMount(share, path string, tree *os.File) error
	ResizeMemory(ctx context.Context, added int) error
	Processes() []hypervisor.Process
	Console() string
	ConsoleSince(offset int64) (text string, end int64, more <-chan struct{})
	Accelerator() hypervisor.Accelerator
}

// Guest is what a sandbox needs of its session with the agent. See client.Session.
type Guest interface {
	WaitReady(ctx context.Context) (protocol.Hello, error)
	Greeted() time.Time
	ClockDelay() time.Duration
	Call(ctx context.Context, message protocol.HostMessage) (protocol.GuestMessage, error)
	OpenInput(ctx context.Context, token protocol.Token) (client.InputStream, error)
	OpenStream(ctx context.Context, token protocol.Token) (net.Conn, error)
	OpenOutput(ctx context.Context, token protocol.Token) (client.OutputStream, error)
	DialPort(ctx context.Context, port uint16) (protocol.HalfCloser, error)
	DialUnix(ctx context.Context, path string) (protocol.HalfCloser, error)
	Dial(ctx context.Context, port uint32) (net.Conn, error)
	OpenListeners(ctx context.Context) (io.ReadCloser, error)
	DialContainerd(ctx context.Context) (protocol.HalfCloser, error)
	OpenFIFO(ctx context.Context) (io.ReadCloser, error)
	// Listen listens on a port of the host for what the guest dials there. See vsock.Device.
	Listen(port uint32) (vsock.Listener, error)
	Done() <-chan struct{}
	Close() error
}

// machinePlan is what a platform needs to know to start a sandbox's machine.
type machinePlan struct {
	name   string
	config config.Config
	cgroup hypervisor.Cgroup
	frame  frame            // of a machine that boots
	bare   frame            // of one that is a clone: it grows to what is asked of it
	nics   []hypervisor.NIC // plugged before the machine runs; their taps stay the caller's
	disks  bool             // room is kept for them beside all else
	// storage is the file of the disk that the guest keeps images on, plugged before the machine runs; it stays the caller's. Nil: none.
	storage *os.File
	dir     *stateDir
	events  events
	data    func(name string) ([]byte, error) // the file of the host that the guest may have by that name
	log     *slog.Logger                      // names the sandbox
	logger  *slog.Logger                      // for who names it himself
	times   *trace
}

// record notes the machine's processes, so that they can be ended without this one.
func (p *machinePlan) record(processes []hypervisor.Process) error {
	return p.dir.update(func(record *record) { record.Machine = processes })
}

// started is a machine that runs, and the session with its agent.
type started struct {
	machine  Machine
	guest    Guest
	frame    frame
	template string // that the machine is a clone of; empty: it has booted
}

// platform starts a machine and the session with its agent, and pushes what takes that back. It returns when the machine runs.
type platform func(ctx context.Context, plan machinePlan, undo *undo) (started, error)
