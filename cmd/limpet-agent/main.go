// Command limpet-agent is the guest's init: PID 1 and the only daemon of a limpet virtual machine.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"time"

	runc "github.com/containerd/go-runc"
	"github.com/mdlayher/vsock"

	"github.com/limpet-run/limpet/guest/agent"
	"github.com/limpet-run/limpet/guest/agent/container"
	"github.com/limpet-run/limpet/guest/agent/dns"
	"github.com/limpet-run/limpet/guest/agent/hostfile"
	"github.com/limpet-run/limpet/guest/agent/logs"
	"github.com/limpet-run/limpet/guest/agent/machine"
	"github.com/limpet-run/limpet/guest/agent/network"
	"github.com/limpet-run/limpet/guest/agent/pod"
	"github.com/limpet-run/limpet/guest/agent/reaper"
	"github.com/limpet-run/limpet/guest/agent/requests"
	"github.com/limpet-run/limpet/guest/agent/sshagent"
	"github.com/limpet-run/limpet/guest/agent/streams"
	"github.com/limpet-run/limpet/guest/agent/volume"
	"github.com/limpet-run/limpet/guest/protocol"
)

const (
	version = "0.1.0"
	// crunPath is where the guest image has the OCI runtime.
	crunPath = "/usr/bin/crun"
	// shareTag is the device that protocol.ShareDir is mounted from.
	shareTag = "limpet"
)

func main() {
	pod.MainIfAsked()
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "limpet-agent: not PID 1: this program is the init of limpet's guest image and of no use elsewhere")
		os.Exit(2)
	}
	log := logs.New()
	logger := slog.New(protocol.LogTraces(slog.NewMultiHandler(machine.NewLogger(os.Stderr).Handler(), log.Handler())))
	if err := run(context.Background(), logger, log); err != nil {
		logger.Error("the agent cannot go on, the machine is turned off", "error", err)
	}
	logger.Error("turn the machine off", "error", machine.PowerOff())
}

// run is the machine's life: it returns when the host has stopped it.
func run(ctx context.Context, logger *slog.Logger, log *logs.Log) error {
	if err := setUp(); err != nil {
		return err
	}
	listeners, err := listen(protocol.StreamPort, protocol.WorkloadPort, protocol.LogPort, protocol.RequestPort)
	if err != nil {
		return err
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	serve := func(serve func() error) {
		go func() { fail(serve()) }()
	}
	children := reaper.New()
	runc.Monitor = children.Monitor()
	serve(children.Run)
	inside := &guest{}
	server := streams.New(logger, inside)
	rootOf := func(container string) (*os.File, error) { return inside.containers.Root(container) }
	containers := containerOptions(children, logger)
	containers.Streams = server
	a := agent.New(agent.Options{
		Version:    version,
		Dial:       dialHost,
		Machine:    hardware{},
		Volumes:    volume.NewSet(protocol.VolumesDir),
		Resolver:   dns.New(dialService, logger),
		SSHAgent:   sshagent.New(rootOf, dialService, logger),
		Containers: containers,
		Logger:     logger,
	})
	inside.containers = a.Containers()
	requestsServer := requestServer(a, children, logger)
	socket, err := requests.Listen(protocol.RequestSocket) // which no container sees
	if err != nil {
		return fmt.Errorf("listen for machine requests: %w", err)
	}
	device, err := machine.OpenVsock()
	if err != nil {
		return err
	}
	name := rand.Text()
	go machine.TrimCache(ctx, logger)
	serve(func() error { return server.Serve(listeners[protocol.StreamPort]) })
	serve(func() error { return log.Serve(listeners[protocol.LogPort], logs.OpenKernel) })
	serve(func() error { return requestsServer.Serve(listeners[protocol.RequestPort]) })
	serve(func() error { return requestsServer.Serve(socket) })
	rehearsal := newRehearsal(containerOptions(children, logger), logger)
	if err := park(ctx, rehearsal); err != nil {
		return err
	}
	cid, err := device.AwaitCID(ctx)
	if err != nil {
		return err
	}
	// The name alone is that of all clones: until the host has sent entropy they have no random number of their own.
	a.Identify(agent.Identity{BootID: name + "-" + strconv.FormatUint(uint64(cid), 10), CID: cid})
	time.AfterFunc(idleTime, func() { rehearsal.whenIdle(ctx, a.Containers()) })
	go mountShare(ctx, a.Containers())
	serve(func() error { return a.ServeFurther(ctx, listeners[protocol.WorkloadPort]) })
	if err := a.Run(ctx); err != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	return nil
}

// shareTimeout is how long the file share may take to come: the host plugs it before the machine runs.
const shareTimeout = 10 * time.Second

// mountShare mounts the file share before a container needs it, which tries again if this fails.
func mountShare(ctx context.Context, containers *container.Set) {
	ctx, cancel := context.WithTimeout(ctx, shareTimeout)
	defer cancel()
	_ = containers.Mount(ctx)
}

// setUp makes the machine one that programs can run in.
func setUp() error {
	if err := machine.Setup(); err != nil {
		return fmt.Errorf("set the machine up: %w", err)
	}
	// The kernel gave init what it made of its command line, which is nobody else's.
	os.Clearenv()
	return os.Setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

// containerOptions are those of all containers, whoever asks for them.
func containerOptions(children *reaper.Reaper, logger *slog.Logger) container.Options {
	return container.Options{
		Reaper: children, Logger: logger, Dir: protocol.ContainersDir, CgroupRoot: machine.CgroupRoot, Share: protocol.ShareDir,
		Overlays:   protocol.OverlaysDir,
		MountShare: func(ctx context.Context) error { return machine.MountShare(ctx, shareTag, protocol.ShareDir) },
		Unmount:    func() error { return machine.Unmount(protocol.ShareDir) },
		Crun:       crunPath,
	}
}

// requestServer serves machine requests.
func requestServer(a *agent.Agent, children *reaper.Reaper, logger *slog.Logger) *requests.Server {
	files := &hostfile.Bringer{Get: a.Data, Logger: logger}
	jobs := requests.NewJobs()
	options := containerOptions(children, logger)
	options.Streams, options.Reporter = jobs, jobs
	options.MountShare, options.Unmount = a.Containers().Mount, func() error { return nil }
	runs := container.NewSet(options)
	a.AlsoStop(runs)
	return requests.New(requests.Options{
		Containers: runs,
		Jobs:       jobs,
		Images: &requests.ImageProgram{
			Path: protocol.ImagesProgram, Reaper: children, Log: os.Stderr, Logger: logger, CancelTimeout: requests.CancelTimeout,
			Certificates: func(ctx context.Context) (string, error) { return hostCertificates(ctx, a) },
		},
		Roots:    a.Containers().Root,
		Tools:    a.Containers().Mount,
		Files:    files.Bring,
		Busybox:  protocol.BusyboxProgram,
		Shutdown: a.Shutdown,
		Logger:   logger,
	})
}

// certificatesFile is where the host's certificates are put, and certificates what the agent asks the host for.
const (
	certificatesFile = "/run/limpet/ca-certificates.crt"
	certificates     = "ca-certificates.crt"
)

// hostCertificates asks the host for those who certify servers: it may know some that the world does not.
func hostCertificates(ctx context.Context, a *agent.Agent) (path string, err error) {
	content, err := a.Data(ctx, certificates)
	if err != nil {
		return "", err
	}
	return certificatesFile, os.WriteFile(certificatesFile, content, 0o644)
}

// dialHost connects to a port of the host's.
func dialHost(_ context.Context, port uint32) (net.Conn, error) {
	return vsock.Dial(protocol.HostCID, port, nil)
}

// dialService connects to a port of the host's that is for the agent alone, and says the token by which the host knows it.
func dialService(ctx context.Context, port uint32, token protocol.Token) (net.Conn, error) {
	conn, err := dialHost(ctx, port)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(token[:]); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// anyCID listens on whatever the machine's id is going to be (VMADDR_CID_ANY).
const anyCID = 1<<32 - 1

// listen listens on ports for connections of the host.
func listen(ports ...uint32) (map[uint32]net.Listener, error) {
	listeners := map[uint32]net.Listener{}
	for _, port := range ports {
		listener, err := vsock.ListenContextID(anyCID, port, nil)
		if err != nil {
			return nil, fmt.Errorf("listen on port %d: %w", port, err)
		}
		listeners[port] = streams.HostOnly(listener, isHost)
	}
	return listeners, nil
}

func isHost(address net.Addr) bool {
	peer, ok := address.(*vsock.Addr)
	return ok && peer.ContextID == protocol.HostCID
}

// guest is what the host's byte streams reach in the machine.
type guest struct{ containers *container.Set }

func (*guest) Listeners() ([]protocol.Listener, error) { return network.Listeners() }
func (g *guest) Roots() []*os.File                     { return g.containers.Roots() }

// hardware is the machine's clock, random number generator, network cards, processors, memory and disks.
type hardware struct{}

func (hardware) SetClock(unixNano int64) error    { return machine.SetClock(unixNano) }
func (hardware) UseProcessors(count uint64) error { return machine.UseProcessors(count) }

// Reseed gives the machine randomness of its own, and what is made of it.
func (hardware) Reseed(entropy []byte) error {
	if err := machine.Reseed(entropy); err != nil {
		return err
	}
	return machine.Name()
}

func (hardware) AwaitMemory(ctx context.Context, bytes uint64) error {
	return machine.AwaitMemory(ctx, bytes)
}

func (hardware) AwaitDisk(ctx context.Context, serial string) (protocol.BlockDevice, error) {
	major, minor, err := machine.AwaitDisk(ctx, serial)
	return protocol.BlockDevice{Major: major, Minor: minor}, err
}

func (hardware) Eject(mac string) error { return network.Eject(mac, machine.Eject) }

func (hardware) ConfigureNetwork(ctx context.Context, m protocol.Network) error {
	return network.Configure(ctx, m, machine.Await)
}
