package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/limpet-run/limpet/guest/client"
	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/hypervisor/qemu"
	"github.com/limpet-run/limpet/hypervisor/vsock"
	"github.com/limpet-run/limpet/runtime/config"
)

// shareDevice names the file share as a device of the machine; shareTag is what the agent mounts at guestShare.
const (
	shareDevice = "share"
	shareTag    = "limpet"
)

// maker makes a machine, paused and bare.
type maker func(ctx context.Context) (hypervisor.Machine, error)

// startQEMU is the platform: a machine of QEMU, a clone or else one that boots.
func startQEMU(ctx context.Context, plan machinePlan, undo *undo) (started, error) {
	driver := newDriver(plan.config, plan.logger)
	if plan.config.Template.Enabled {
		clone, err := startClone(ctx, plan, driver, undo)
		if err != nil && ctx.Err() != nil {
			return clone, err
		}
		countStart(ctx, plan, err)
		if err == nil {
			return clone, nil
		}
		plan.log.Warn("the sandbox boots: it cannot be a clone", "error", err)
	}
	machine, guest, err := assemble(ctx, plan, undo, func(ctx context.Context) (hypervisor.Machine, error) {
		config := plan.machine(plan.frame, plan.ports())
		config.Shares = []hypervisor.Share{plan.share()}
		return driver.Boot(ctx, config)
	})
	return started{machine: machine, guest: guest, frame: plan.frame}, err
}

func newDriver(settings config.Config, logger *slog.Logger) hypervisor.Driver {
	return qemu.New(qemu.Options{Path: settings.Hypervisor.Path, Virtiofsd: settings.Virtiofs.Daemon, Logger: logger})
}

// assemble makes a machine with a vsock device and the file share, and a session over that device. What does not need the other is done
// at the same time.
func assemble(ctx context.Context, plan machinePlan, undo *undo, make maker) (Machine, Guest, error) {
	machine, device, err := makeParts(ctx, plan, undo, make)
	if err != nil {
		return nil, nil, err
	}
	// Should this process be killed from here on, what runs is known. Plugging adds the share's daemon.
	if err := plan.record(append(machine.Processes(), device.Processes()...)); err != nil {
		return nil, nil, err
	}
	if err := plug(ctx, plan, machine, device); err != nil {
		return nil, nil, err
	}
	if err := plan.record(machine.Processes()); err != nil {
		return nil, nil, err
	}
	if err := attachTools(plan, machine, undo); err != nil {
		return nil, nil, err
	}
	token, err := plan.dir.makeToken()
	if err != nil {
		return nil, nil, err
	}
	session := client.New(device, client.Options{
		Token: token, Handler: plan.events, Data: plan.data, Logger: plan.log,
	})
	undo.push("close the session with the agent", func(context.Context) error { return session.Close() })
	if err := machine.Resume(ctx); err != nil {
		return nil, nil, err
	}
	return vsockMachine{machine, device}, vsockGuest{session, device}, nil
}

// vsockMachine is a machine whose end is that of its vsock device, too.
type vsockMachine struct {
	hypervisor.Machine
	device vsock.Device
}

// Stop implements Machine. The two end at the same time.
func (m vsockMachine) Stop(ctx context.Context) error {
	closed := make(chan error, 1)
	go func() { closed <- m.device.Close() }()
	return errors.Join(m.Machine.Stop(ctx), <-closed)
}

// machine describes the bare machine.
func (p *machinePlan) machine(frame frame, ports int) hypervisor.Config {
	return p.place(bareMachine(p.config, frame, ports))
}

// place says whose a machine is, and where.
func (p *machinePlan) place(machine hypervisor.Config) hypervisor.Config {
	machine.Name, machine.Dir, machine.Cgroup = p.name, p.dir.vm(), p.cgroup
	return machine
}

// bareMachine describes a bare machine, but for its place.
func bareMachine(settings config.Config, frame frame, ports int) hypervisor.Config {
	return hypervisor.Config{
		Kernel: settings.Kernel, Initrd: settings.Image,
		Cmdline: []string{
			"quiet",              // every line on an emulated serial port takes time; a panic is printed all the same
			"dummy.numdummies=0", // else there is a network interface that nobody asked for
			// For the agent, whose program is in Go: an emulated clone's first milliseconds are slow, and what runs then is not to be
			// interrupted for that.
			"GODEBUG=asyncpreemptoff=1",
		},
		VCPUs: frame.vcpus, MemoryMiB: frame.memory, MaxVCPUs: frame.maxVCPUs, MaxMemoryMiB: frame.maxMemory,
		Ports:       ports,
		Accelerator: hypervisor.Accelerator(settings.Hypervisor.Accelerator),
	}
}

// share is the file share as a device of the machine.
func (p *machinePlan) share() hypervisor.Share {
	return hypervisor.Share{ID: shareDevice, Tag: shareTag, Dir: p.dir.share()}
}

// attachTools shows the guest the programs that it starts when they are asked for. A host that has none gets a sandbox all the same.
func attachTools(plan machinePlan, machine Machine, undo *undo) error {
	defer plan.times.stage("tools")()
	tree, err := openBind(plan.config.Tools, bindOptions{readOnly: true})
	if errors.Is(err, fs.ErrNotExist) {
		plan.log.Warn("the guest gets no tools: it can neither pull images nor format a disk", "tools", plan.config.Tools)
		return nil
	}
	if err != nil {
		return fmt.Errorf("tools for the guest: %w", err)
	}
	defer tree.Close()
	place := filepath.Join(plan.dir.share(), protocol.ToolsName)
	if err := os.Mkdir(place, 0o711); err != nil {
		return fmt.Errorf("tools for the guest: %w", err)
	}
	undo.push("remove the place of the guest's tools", func(context.Context) error {
		return os.Remove(filepath.Join(plan.dir.share(), protocol.ToolsName))
	})
	return machine.AttachMount(shareDevice, protocol.ToolsName, tree)
}

// vsockGuest is a session with the agent beside the device that it is held over.
type vsockGuest struct {
	*client.Session
	device vsock.Device
}

// Listen implements Guest.
func (g vsockGuest) Listen(port uint32) (vsock.Listener, error) { return g.device.Listen(port) }

// minPorts is how many ports a machine needs beside those of its first network cards: for vsock, share, added memory, and a card that
// comes later.
const minPorts = 4

// ports is how many ports the machine has: all have the same number, unless one needs more.
func (p *machinePlan) ports() int {
	needed := minPorts + len(p.nics)
	if p.disks || p.storage != nil { // those of a pod may still come
		needed++
	}
	return max(needed, hypervisor.DefaultPorts)
}

// makeParts makes the paused machine and its vsock device. The machine is to stop before its device goes.
func makeParts(
	ctx context.Context, plan machinePlan, undo *undo, make maker,
) (machine hypervisor.Machine, device vsock.Device, err error) {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		defer plan.times.stage("vsock")()
		device, err = vsock.New(ctx, vsock.Options{
			Backend: vsock.Backend(plan.config.Vsock.Backend), Dir: plan.dir.vsock(), Daemon: plan.config.Vsock.Daemon,
			SessionPortBase: protocol.SessionPortBase, Cgroup: plan.cgroup, Logger: plan.log,
		})
		return err
	})
	group.Go(func() (err error) {
		defer plan.times.stage(StageQEMU)()
		machine, err = make(ctx)
		return err
	})
	err = group.Wait()
	if device != nil {
		undo.push("end the vsock device", func(context.Context) error { return device.Close() })
	}
	if machine != nil {
		undo.push("stop the machine", machine.Stop)
	}
	return machine, device, err
}

// plug gives the machine its identity.
func plug(ctx context.Context, plan machinePlan, machine hypervisor.Machine, device vsock.Device) error {
	defer plan.times.stage("plug")()
	// The first, because a clone looks for it in the first port.
	if err := machine.Plug(ctx, hypervisor.Vsock{ID: "vsock", Socket: device}); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, device := range append(plan.devices(), plan.share()) {
		group.Go(func() error { return machine.Plug(ctx, device) })
	}
	return group.Wait()
}

// devices are those that not every sandbox has.
func (p *machinePlan) devices() []hypervisor.Device {
	var devices []hypervisor.Device
	for _, nic := range p.nics {
		devices = append(devices, nic)
	}
	if p.storage != nil {
		devices = append(devices, hypervisor.Disk{ID: protocol.StorageSerial, File: p.storage})
	}
	return devices
}
