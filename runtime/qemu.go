package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/limpet-run/limpet/guest/client"
	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/hypervisor/qemu"
	"github.com/limpet-run/limpet/hypervisor/vsock"
)

// shareDevice names the file share as a device of the machine; shareTag is what the agent mounts at guestShare.
const (
	shareDevice = "share"
	shareTag    = "limpet"
)

// startQEMU is the platform: a machine of QEMU with a vsock device and the file share, and a session over that device. What does
// not need the other is done at the same time.
func startQEMU(ctx context.Context, plan machinePlan, undo *undo) (Machine, Guest, error) {
	machine, device, err := makeParts(ctx, plan, undo)
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
	if err := attachTools(plan, machine); err != nil {
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
	return machine, vsockGuest{session, device}, nil
}

// attachTools shows the guest the programs that it starts when they are asked for. A host that has none gets a sandbox all the same.
func attachTools(plan machinePlan, machine Machine) error {
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
	if err := os.Mkdir(filepath.Join(plan.dir.share(), protocol.ToolsName), 0o711); err != nil {
		return fmt.Errorf("tools for the guest: %w", err)
	}
	return machine.AttachMount(shareDevice, protocol.ToolsName, tree)
}

// vsockGuest is a session with the agent beside the device that it is held over.
type vsockGuest struct {
	*client.Session
	device vsock.Device
}

// Listen implements Guest.
func (g vsockGuest) Listen(port uint32) (vsock.Listener, error) { return g.device.Listen(port) }

// ports is how many ports the machine needs that has so many network cards from the start: there is room for others.
func ports(nics int) int { return hypervisor.DefaultPorts + nics }

// ports is how many ports the machine needs. A pod's has room for disks in any case.
func (p *machinePlan) ports() int {
	count := ports(len(p.nics))
	if p.disks || p.storage != nil {
		count++
	}
	return count
}

// makeParts makes the paused machine and its vsock device. The machine is to stop before its device goes.
func makeParts(ctx context.Context, plan machinePlan, undo *undo) (machine hypervisor.Machine, device vsock.Device, err error) {
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
		defer plan.times.stage("qemu")()
		driver := qemu.New(qemu.Options{Path: plan.config.Hypervisor.Path, Virtiofsd: plan.config.Virtiofs.Daemon, Logger: plan.logger})
		machine, err = driver.Boot(ctx, hypervisor.Config{
			Name: plan.name, Dir: plan.dir.vm(), Kernel: plan.config.Kernel, Initrd: plan.config.Image,
			Cmdline: []string{
				"quiet",              // every line on an emulated serial port takes time; a panic is printed all the same
				"dummy.numdummies=0", // else there is a network interface that nobody asked for
			},
			VCPUs: plan.frame.vcpus, MemoryMiB: plan.frame.memory,
			MaxVCPUs: plan.frame.maxVCPUs, MaxMemoryMiB: plan.frame.maxMemory,
			Ports:       plan.ports(),
			Accelerator: hypervisor.Accelerator(plan.config.Hypervisor.Accelerator), Cgroup: plan.cgroup,
		})
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
	group, ctx := errgroup.WithContext(ctx)
	parts := []hypervisor.Device{
		hypervisor.Vsock{ID: "vsock", Socket: device},
		hypervisor.Share{ID: shareDevice, Tag: shareTag, Dir: plan.dir.share()},
	}
	for _, nic := range plan.nics {
		parts = append(parts, nic)
	}
	if plan.storage != nil {
		parts = append(parts, hypervisor.Disk{ID: protocol.StorageSerial, File: plan.storage})
	}
	for _, part := range parts {
		group.Go(func() error { return machine.Plug(ctx, part) })
	}
	return group.Wait()
}
