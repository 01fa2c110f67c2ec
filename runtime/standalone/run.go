package standalone

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/runtime"
	"github.com/limpet-run/limpet/runtime/config"
	"github.com/limpet-run/limpet/runtime/door"
)

const (
	// stopTimeout is how long the end of a sandbox may take: the guest has half of it, then the machine is ended.
	stopTimeout = 15 * time.Second
	// killTimeout is how long the guest may take to kill a command.
	killTimeout = 10 * time.Second
)

// resolvConfName is what the guest asks for to resolve names. See guest_data in the configuration.
const resolvConfName = "resolv.conf"

// Options says how to run a Request.
type Options struct {
	Request Request
	Config  config.Config
	// IO is the command's, owned by the run from the call on. A run in the background keeps its output itself.
	IO runtime.IO
	// Detached says that the run goes on in the background, in this process, which does nothing else: its log and its output are in its
	// place, and what is known of it stays when it has ended, unless the request says otherwise.
	Detached bool
	// Progress is told what is being done; it does not block. Nil: nobody is.
	Progress func(text string)
	Logger   *slog.Logger
}

// Run is a command in a microVM. Its methods are safe for concurrent use. Its starter must Close it.
type Run struct {
	options   Options
	place     *place
	door      *door.Door
	sandbox   *runtime.Sandbox
	container *runtime.Container
	outputs   []*outlet
	abandon   context.CancelCauseFunc // ends a start
	started   chan struct{}           // closed when the command has been started
	began     time.Time               // of the command
	timedOut  atomic.Bool
}

// Start starts a run: its command runs when Start returns. On error nothing of it is left, and Code(err) is the exit status for it.
func Start(ctx context.Context, options Options) (*Run, error) {
	r := &Run{options: options, started: make(chan struct{})}
	ctx, r.abandon = context.WithCancelCause(ctx)
	defer r.abandon(nil)
	for _, sink := range []*io.WriteCloser{&r.options.IO.Stdout, &r.options.IO.Stderr} {
		if *sink != nil {
			*sink = r.outlet(*sink)
		}
	}
	if err := r.start(ctx); err != nil {
		if ctx.Err() != nil { // what a cancelled step says of it is less than what cancelled it
			err = context.Cause(ctx)
		}
		err = fmt.Errorf("run %s: %w", options.Request.Name, err)
		if r.container == nil {
			closeIO(r.options.IO)
		}
		undoCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		return nil, errors.Join(err, r.undo(undoCtx, nil))
	}
	return r, nil
}

// outlet makes an output one that Wait waits for.
func (r *Run) outlet(sink io.WriteCloser) io.WriteCloser {
	outlet := newOutlet(sink)
	r.outputs = append(r.outputs, outlet)
	return outlet
}

func (r *Run) start(ctx context.Context) error {
	request := r.options.Request
	resolvConf, err := usableResolvConf(r.options.Config.GuestData[resolvConfName], os.ReadFile)
	if err != nil {
		return err
	}
	r.options.Config.GuestData = maps.Clone(r.options.Config.GuestData)
	r.options.Config.GuestData[resolvConfName] = resolvConf
	kind, err := kindOf(request.Source)
	if err != nil {
		return err
	}
	if err := Sweep(ctx, r.options.Config.StateDir); err != nil {
		r.options.Logger.Warn("what killed runs left is still there", "error", err)
	}
	first := Record{Request: request, State: StateStarting, Holder: os.Getpid(), Detached: r.options.Detached, Began: time.Now()}
	if r.place, err = claimPlace(ctx, r.options.Config.StateDir, first); err != nil {
		return err
	}
	if r.options.Detached {
		if err := r.toBackground(); err != nil {
			return err
		}
	}
	if r.door, err = door.Open("unix", filepath.Join(r.place.path, controlDoor), r.options.Logger, r.serveControl); err != nil {
		return err
	}
	if err := r.startSandbox(ctx, kind); err != nil {
		return err
	}
	container := runtime.ContainerOptions{ID: request.Name, Bundle: r.place.path, IO: r.options.IO}
	if kind != sourceRootfs {
		image, rootfs, err := r.fetchImage(ctx, kind)
		if err != nil {
			return err
		}
		if err := r.writeBundle(image); err != nil {
			return err
		}
		container.GuestRootfs = rootfs
	}
	if err := r.openPorts(ctx); err != nil {
		return err
	}
	r.progress("starting the command")
	if err := r.startCommand(ctx, container); err != nil {
		return programError(err)
	}
	r.progress("")
	if err := r.place.update(func(record *Record) { record.State = StateRunning }); err != nil {
		return err
	}
	close(r.started)
	return nil
}

// startSandbox starts the machine, with the network that it needs.
func (r *Run) startSandbox(ctx context.Context, kind sourceKind) (err error) {
	request, settings := r.options.Request, r.options.Config
	image := Image{}
	if kind != sourceRootfs {
		image.Cmd = []string{"-"} // what is run is known when the image is there; the sandbox reads other things
		settings.VM.MemoryMiB = max(settings.VM.MemoryMiB, imageMemory)
	}
	if request.restricted() {
		settings.Egress.Restrict = true
		settings.Egress.Hosts, settings.Egress.CIDRs = request.AllowHosts, request.AllowCIDRs
	}
	if err := r.writeBundle(image); err != nil {
		return err
	}
	r.progress("starting a virtual machine")
	r.sandbox, err = runtime.NewSandbox(ctx, runtime.SandboxOptions{
		ID: request.Name, Namespace: Namespace, Bundle: r.place.path, Config: settings, Observer: observer{}, Logger: r.options.Logger,
	})
	if err != nil {
		return err
	}
	if kind == sourceImage || request.Network {
		return r.sandbox.MakeNetwork(ctx, settings.Network)
	}
	return nil
}

// writeBundle makes the place the container's bundle, for what an image says.
func (r *Run) writeBundle(image Image) error {
	request := r.options.Request
	files, err := writeFiles(r.place.path, request, r.options.Config.GuestData[resolvConfName])
	if err != nil {
		return err
	}
	host := Host{Root: "rootfs", Files: files}
	if filepath.IsAbs(request.Source) {
		host.Root = request.Source
	}
	if request.Network {
		host.NetNS = runtime.NetworkPath(r.options.Config.StateDir, Namespace, request.Name)
	}
	spec, err := NewSpec(request, image, host)
	if err != nil {
		return err
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("write the bundle: %w", err)
	}
	if err := os.WriteFile(filepath.Join(r.place.path, configFile), text, 0o600); err != nil {
		return fmt.Errorf("write the bundle: %w", err)
	}
	return nil
}

// openPorts listens where the request says, and leads who connects there to the guest.
func (r *Run) openPorts(ctx context.Context) error {
	var open []Port
	for _, port := range r.options.Request.Ports {
		address := net.JoinHostPort(port.Address, strconv.Itoa(int(port.Host)))
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
		if err != nil {
			return fmt.Errorf("listen for port %d of the guest: %w", port.Guest, err)
		}
		port.Host = uint16(listener.Addr().(*net.TCPAddr).Port)
		if err := r.sandbox.Publish(listener, port.Guest); err != nil {
			return err
		}
		open = append(open, port)
	}
	return r.place.update(func(record *Record) { record.Ports = open })
}

func (r *Run) startCommand(ctx context.Context, options runtime.ContainerOptions) error {
	container, err := r.sandbox.CreateContainer(ctx, options)
	if err != nil {
		return err
	}
	r.container = container
	if err := container.Init().Start(ctx); err != nil {
		return err
	}
	r.began = time.Now()
	return nil
}

func (r *Run) progress(text string) {
	if r.options.Progress != nil {
		r.options.Progress(text)
	}
}

// Record is what is known of the run.
func (r *Run) Record() Record {
	r.place.mu.Lock()
	defer r.place.mu.Unlock()
	return r.place.record
}

// Signal sends the command a signal. One that has ended is an ErrNotFound.
func (r *Run) Signal(ctx context.Context, signal unix.Signal) error {
	return r.container.Init().Kill(ctx, uint32(signal), false)
}

// Resize sets the size of the command's terminal.
func (r *Run) Resize(ctx context.Context, size Size) error {
	return r.container.Init().Resize(ctx, uint32(size.Columns), uint32(size.Rows))
}

// Wait waits until the command has ended and all that it wrote has been delivered. When its time is over it is killed.
func (r *Run) Wait(ctx context.Context) (Exit, error) {
	if limit := r.options.Request.Timeout; limit > 0 {
		timer := time.AfterFunc(time.Until(r.began.Add(limit)), r.expire)
		defer timer.Stop()
	}
	status, err := r.container.Init().Wait(ctx)
	if err != nil {
		return Exit{}, err
	}
	for _, outlet := range r.outputs {
		select {
		case <-outlet.done:
		case <-ctx.Done():
			return Exit{}, context.Cause(ctx)
		}
	}
	return exitOf(status, r.timedOut.Load()), nil
}

// expire kills the command because its time is over.
func (r *Run) expire() {
	r.timedOut.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	if err := r.Signal(ctx, unix.SIGKILL); err != nil && !errdefs.IsNotFound(err) {
		r.options.Logger.Error("a command whose time is over cannot be killed", "error", err)
	}
}

// Close ends what still runs and takes back everything. What is kept of a run in the background remembers exit, which may be nil if it
// did not come to one. It may be called once.
func (r *Run) Close(ctx context.Context, exit *Exit) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	return r.undo(ctx, exit)
}

// undo takes back what start did, as far as it came.
func (r *Run) undo(ctx context.Context, exit *Exit) error {
	var errs []error
	if r.sandbox != nil {
		errs = append(errs, r.sandbox.Stop(ctx))
	}
	if r.place != nil && errors.Join(errs...) == nil { // else it is left to Sweep
		errs = append(errs, r.leave(exit))
	}
	if r.door != nil {
		r.door.Close()
	}
	return errors.Join(errs...)
}

// leave gives up the place.
func (r *Run) leave(exit *Exit) error {
	if exit == nil || !r.options.Detached || r.options.Request.Remove {
		return r.place.remove()
	}
	defer r.place.release()
	return r.place.update(func(record *Record) { record.State, record.Exit = StateEnded, exit })
}

// observer is told by the exit's reason what an OOM did.
type observer struct{}

func (observer) OOM(string) {}
