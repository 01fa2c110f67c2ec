// Package qemu makes machines with QEMU: the q35 machine type, a kernel started by PVH, devices plugged over QMP.
//
// QEMU and the daemons behind its devices are our processes. QEMU is reached by an inherited socket, its console is its standard
// output, the guest's memory is an inherited file, and files of devices are passed over QMP: nothing is found by a name, and
// nothing has to be waited for by asking again.
package qemu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/hypervisor/internal/child"
)

const (
	// consoleSize is how much of the guest's console is kept: a panic with its trace.
	consoleSize = 16 << 10
	// startTimeout bounds a start of QEMU that the context does not: it takes 40 ms, and seconds on a very busy host.
	startTimeout = 20 * time.Second
)

// Options is what the driver needs to know of the host.
type Options struct {
	Path      string          // QEMU: a path, or a name that is looked up in PATH
	Virtiofsd string          // virtiofsd: a path; empty: in PATH, then where Debian's packages put it
	Host      hypervisor.Host // where KVM is looked for
	Logger    *slog.Logger
}

// Driver implements hypervisor.Driver.
type Driver struct{ options Options }

// New returns a driver. What it needs is looked for when it makes a machine.
func New(options Options) *Driver { return &Driver{options: options} }

// Boot implements hypervisor.Driver.
func (d *Driver) Boot(ctx context.Context, config hypervisor.Config) (hypervisor.Machine, error) {
	m, err := d.boot(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("boot machine %s: %w", config.Name, err)
	}
	return m, nil
}

func (d *Driver) boot(ctx context.Context, config hypervisor.Config) (*machine, error) {
	plan, err := d.plan(config)
	if err != nil {
		return nil, err
	}
	memory, err := newMemory(config.MemoryMiB)
	if err != nil {
		return nil, err
	}
	return plan.start(ctx, memory, false)
}

// Restore implements hypervisor.Driver.
func (d *Driver) Restore(ctx context.Context, config hypervisor.Config, dir string) (hypervisor.Machine, error) {
	m, err := d.restore(ctx, config, dir)
	if err != nil {
		return nil, fmt.Errorf("restore machine %s from %s: %w", config.Name, dir, err)
	}
	return m, nil
}

func (d *Driver) restore(ctx context.Context, config hypervisor.Config, dir string) (*machine, error) {
	plan, err := d.plan(config)
	if err != nil {
		return nil, err
	}
	saved, err := openSaved(dir, plan)
	if err != nil {
		return nil, err
	}
	defer saved.close()
	memory, err := saved.takeMemory(config.PrivateMemory)
	if err != nil {
		return nil, err
	}
	m, err := plan.start(ctx, memory, true)
	if err != nil {
		return nil, err
	}
	if err := m.load(ctx, saved); err != nil {
		return nil, m.abandon(err)
	}
	return m, nil
}

// Ingredients implements hypervisor.Driver.
func (d *Driver) Ingredients(config hypervisor.Config) ([]hypervisor.Ingredient, error) {
	plan, err := d.plan(config)
	if err != nil {
		return nil, fmt.Errorf("ingredients of machine %s: %w", config.Name, err)
	}
	return plan.ingredients()
}

// plan is a machine whose every need has been found.
type plan struct {
	config      hypervisor.Config
	accelerator hypervisor.Accelerator // kvm or tcg
	qemu        string
	virtiofsd   string
	logger      *slog.Logger
}

// minMemoryMiB is where the kernel and an initramfs of ours stop fitting.
const minMemoryMiB = 64

// plan checks before anything is started.
func (d *Driver) plan(config hypervisor.Config) (*plan, error) {
	if config.MemoryMiB < minMemoryMiB || config.VCPUs < 1 {
		return nil, fmt.Errorf("%d MiB of memory and %d CPUs: a guest needs at least %d MiB and 1 CPU: %w",
			config.MemoryMiB, config.VCPUs, minMemoryMiB, errdefs.ErrInvalidArgument)
	}
	if config.Ports < 0 || config.Ports > hypervisor.MaxPorts {
		return nil, fmt.Errorf("%d ports: a machine has room for %d: %w", config.Ports, hypervisor.MaxPorts, errdefs.ErrInvalidArgument)
	}
	if err := findFile("guest kernel", config.Kernel); err != nil {
		return nil, err
	}
	if err := findFile("guest image", config.Initrd); err != nil {
		return nil, err
	}
	qemu, err := findQEMU(d.options.Path)
	if err != nil {
		return nil, err
	}
	virtiofsd, err := findVirtiofsd(d.options.Virtiofsd)
	if err != nil {
		return nil, err
	}
	logger := d.options.Logger.With("sandbox", config.Name)
	accelerator, err := d.options.Host.Resolve(config.Accelerator, logger)
	if err != nil {
		return nil, err
	}
	return &plan{config: config, accelerator: accelerator, qemu: qemu, virtiofsd: virtiofsd, logger: logger}, nil
}

func findFile(what, path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%s not found at %s: run `make guest`, or set its path in the configuration: %w", what, path, errdefs.ErrNotFound)
	case err != nil:
		return fmt.Errorf("%s: %w", what, err)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s %s is not a file: set its path in the configuration: %w", what, path, errdefs.ErrInvalidArgument)
	}
	return nil
}

func findQEMU(configured string) (string, error) {
	path, err := exec.LookPath(configured)
	if err != nil {
		return "", fmt.Errorf("QEMU not found: %w: install the package qemu-system-x86, or set its path in the configuration: %w",
			err, errdefs.ErrNotFound)
	}
	return path, nil
}

// start runs QEMU and returns the machine paused, without its state if it is to have a saved one. It takes the memory over.
func (p *plan) start(ctx context.Context, memory *os.File, restore bool) (*machine, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, errors.Join(err, memory.Close())
	}
	console := child.NewTail(consoleSize)
	command := exec.Command(p.qemu, arguments(p.config, p.accelerator, restore)...)
	command.Stdout = console
	command.ExtraFiles = []*os.File{monitorFD - 3: theirs, memoryFD - 3: memory}
	var process *child.Child
	err = p.withPages(func() (err error) {
		process, err = child.Start("qemu", command, p.config.Cgroup)
		return err
	})
	if err = errors.Join(err, theirs.Close()); err != nil {
		return nil, errors.Join(err, ours.Close(), memory.Close())
	}
	servers := p.serveAll()
	monitor, err := newMonitor(ctx, ours)
	if err != nil {
		for _, server := range servers {
			server.end()
		}
		process.Kill()
		<-process.Done()
		if errors.Is(err, errMonitorClosed) { // QEMU's own end says more than what the socket made of it
			err = errors.New("QEMU did not come up")
		}
		return nil, errors.Join(p.accelerator.Advise(process.Explain(err)), memory.Close())
	}
	return newMachine(p, process, monitor, console, memory, servers), nil
}

// hugePages is held while this process has none to pass on.
var hugePages sync.Mutex

// withPages starts a process with the pages that suit the accelerator. TCG's own memory is filled bit by bit, in many places: with huge pages
// much of it is never used, and to clear them takes a tenth of a clone's start. A process has that choice from the one that starts it.
func (p *plan) withPages(start func() error) error {
	if p.accelerator != hypervisor.AcceleratorTCG {
		return start()
	}
	hugePages.Lock()
	defer hugePages.Unlock()
	if err := unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("start without huge pages: %w", err)
	}
	defer unix.Prctl(unix.PR_SET_THP_DISABLE, 0, 0, 0, 0) // cannot fail either
	return start()
}

// socketPair makes the two ends of QEMU's monitor.
func socketPair() (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make QEMU's monitor socket: %w", err)
	}
	end := os.NewFile(uintptr(fds[0]), "monitor")
	defer end.Close() // FileConn duplicates
	theirs = os.NewFile(uintptr(fds[1]), "monitor")
	conn, err := net.FileConn(end)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("make QEMU's monitor socket: %w", err), theirs.Close())
	}
	return conn.(*net.UnixConn), theirs, nil
}
