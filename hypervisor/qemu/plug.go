package qemu

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/hypervisor/internal/child"
)

// deviceID is narrower than QEMU's identifiers, which have no bound.
var deviceID = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]{0,31}$`)
})

// maxTag is the length of a virtio-fs tag (virtio 1.2, section 5.11.4).
const maxTag = 36

// pluggedDevice is a device of the machine.
type pluggedDevice struct {
	device device
	port   string                 // empty: a disk
	target int                    // of a disk
	share  *sharedDir             // of a share; else nil
	daemon *child.Child           // serves the share; else nil
	ending atomic.Bool            // the daemon is told to end
	vsock  hypervisor.VsockDevice // else nil
}

// kill has what serves the device end.
func (p *pluggedDevice) kill() {
	p.ending.Store(true)
	if p.daemon != nil {
		p.daemon.Kill()
	}
}

// end ends what served the device.
func (p *pluggedDevice) end() {
	p.kill()
	if p.daemon != nil {
		<-p.daemon.Done()
	}
}

func (p *pluggedDevice) processes() []hypervisor.Process {
	switch {
	case p.daemon != nil:
		return []hypervisor.Process{p.daemon.Process()}
	case p.vsock != nil:
		return p.vsock.Processes()
	}
	return nil
}

// devices returns what is plugged, in the order of the identifiers.
func (m *machine) devices() []*pluggedDevice {
	m.mu.Lock()
	defer m.mu.Unlock()
	var devices []*pluggedDevice
	for _, id := range slices.Sorted(maps.Keys(m.plugged)) {
		devices = append(devices, m.plugged[id])
	}
	return devices
}

// Plug implements hypervisor.Machine.
func (m *machine) Plug(ctx context.Context, device hypervisor.Device) error {
	end, err := m.begin(ctx, "plug a device into", paused, running)
	if err != nil {
		return err
	}
	defer end()
	if err := m.plug(ctx, device); err != nil {
		return fmt.Errorf("plug %s into machine %s: %w", device.DeviceID(), m.plan.config.Name, err)
	}
	return nil
}

func (m *machine) plug(ctx context.Context, device hypervisor.Device) error {
	id := device.DeviceID()
	if !deviceID().MatchString(id) {
		return fmt.Errorf("a device's identifier is a letter and up to 31 letters, digits, '.', '_', '-': %w", errdefs.ErrInvalidArgument)
	}
	if err := m.freeID(id); err != nil {
		return err
	}
	if disk, ok := device.(hypervisor.Disk); ok {
		return m.plugDisk(ctx, disk)
	}
	port, err := m.freePort()
	if err != nil {
		return err
	}
	var plugged *pluggedDevice
	switch device := device.(type) {
	case hypervisor.Vsock:
		plugged, err = m.plugVsock(ctx, port, device)
	case hypervisor.Share:
		plugged, err = m.plugShare(ctx, port, device)
	case hypervisor.NIC:
		plugged, err = m.plugNIC(ctx, port, device)
	default:
		err = fmt.Errorf("a device of type %T: %w", device, errdefs.ErrNotImplemented)
	}
	if err != nil {
		return err
	}
	m.keep(id, plugged)
	return nil
}

// keep notes a device that the machine has now.
func (m *machine) keep(id string, plugged *pluggedDevice) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.plugged[id] = plugged
}

// has tells whether the machine has a device of that identifier.
func (m *machine) has(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.plugged[id] != nil
}

// freeID makes sure that no device has the identifier.
func (m *machine) freeID(id string) error {
	if m.has(id) {
		return fmt.Errorf("the machine has a device of that name: %w", errdefs.ErrAlreadyExists)
	}
	return nil
}

// freePort returns the first port that has no device.
func (m *machine) freePort() (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	taken := map[string]bool{}
	for _, device := range m.plugged {
		taken[device.port] = true
	}
	ports := portCount(m.plan.config)
	for i := range ports {
		if !taken[port(i)] {
			return port(i), nil
		}
	}
	return "", fmt.Errorf("all %d ports have a device: unplug one: %w", ports, errdefs.ErrResourceExhausted)
}

func (m *machine) plugVsock(ctx context.Context, port string, vsock hypervisor.Vsock) (*pluggedDevice, error) {
	attachment := vsock.Socket.Attachment()
	plan := vsockDevice(vsock.ID, port, vsock.Socket.CID(), attachment.VhostUser)
	if err := m.addDevice(ctx, vsock.ID, attachment.File, plan); err != nil {
		return nil, err
	}
	return &pluggedDevice{device: plan, port: port, vsock: vsock.Socket}, nil
}

func (m *machine) plugShare(ctx context.Context, port string, share hypervisor.Share) (*pluggedDevice, error) {
	if share.Tag == "" || len(share.Tag) > maxTag {
		return nil, fmt.Errorf("tag %q: not of 1 to %d bytes: %w", share.Tag, maxTag, errdefs.ErrInvalidArgument)
	}
	dir, err := lookAtShare(share.Dir)
	if err != nil {
		return nil, err
	}
	daemon, connection, err := m.takeServer(ctx, share)
	if err != nil {
		return nil, err
	}
	plan := shareDevice(share.ID, port, share.Tag)
	err = m.addDevice(ctx, share.ID, connection, plan)
	if err == nil { // which it is not before the daemon has answered, from its namespace
		err = protectShare(daemon, dir)
	}
	if err = errors.Join(err, connection.Close()); err != nil {
		daemon.Kill()
		<-daemon.Done()
		return nil, daemon.Explain(err)
	}
	plugged := &pluggedDevice{device: plan, port: port, share: dir, daemon: daemon}
	go m.guard(plugged)
	return plugged, nil
}

func (m *machine) plugNIC(ctx context.Context, port string, nic hypervisor.NIC) (*pluggedDevice, error) {
	plan := nicDevice(port, nic)
	if err := m.addDevice(ctx, nic.ID, nic.Tap, plan); err != nil {
		return nil, err
	}
	return &pluggedDevice{device: plan, port: port}, nil
}

// guard ends the machine when the daemon of a device has ended by itself: the guest would wait for its answers for ever.
func (m *machine) guard(plugged *pluggedDevice) {
	<-plugged.daemon.Done()
	if plugged.ending.Load() {
		return
	}
	if plugged.daemon.Err() == nil { // it left because QEMU hung up, which ends next, by itself
		select {
		case <-m.ended:
			return
		case <-time.After(quitGrace):
		}
	}
	m.mu.Lock()
	m.broken = plugged.daemon.Explain(fmt.Errorf("nobody serves its device %v", plugged.device.arguments["id"]))
	m.mu.Unlock()
	m.qemu.Kill()
}

// addDevice passes the file, if there is one, under the device's identifier and adds the device that uses it.
func (m *machine) addDevice(ctx context.Context, id string, file *os.File, plan device) error {
	if file != nil {
		if err := m.monitor.passFile(ctx, id, file); err != nil {
			return err
		}
	}
	if err := m.addBackend(ctx, plan); err != nil {
		return err
	}
	if err := m.monitor.execute(ctx, "device_add", plan.arguments); err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		return errors.Join(err, m.removeBackend(ctx, plan))
	}
	return nil
}

// addBackend adds the part of a device that the guest does not see.
func (m *machine) addBackend(ctx context.Context, plan device) error {
	switch {
	case plan.chardev != nil:
		return m.monitor.execute(ctx, "chardev-add", plan.chardev)
	case plan.netdev != nil:
		return m.monitor.execute(ctx, "netdev_add", plan.netdev)
	}
	return nil
}

func (m *machine) removeBackend(ctx context.Context, plan device) error {
	switch {
	case plan.chardev != nil:
		return m.monitor.execute(ctx, "chardev-remove", map[string]any{"id": plan.chardev["id"]})
	case plan.netdev != nil:
		return m.monitor.execute(ctx, "netdev_del", map[string]any{"id": plan.netdev["id"]})
	case plan.blockdev != nil:
		return m.removeBlock(ctx, plan)
	}
	return nil
}

// Unplug implements hypervisor.Machine.
func (m *machine) Unplug(ctx context.Context, id string, letGo func(context.Context) error) error {
	end, err := m.begin(ctx, "unplug a device from", running)
	if err != nil {
		return err
	}
	defer end()
	if err := m.unplug(ctx, id, letGo); err != nil {
		return fmt.Errorf("unplug %s from machine %s: %w", id, m.plan.config.Name, err)
	}
	return nil
}

func (m *machine) unplug(ctx context.Context, id string, letGo func(context.Context) error) error {
	m.mu.Lock()
	plugged := m.plugged[id]
	m.mu.Unlock()
	if plugged == nil {
		return fmt.Errorf("the machine has no such device: %w", errdefs.ErrNotFound)
	}
	gone := m.monitor.expect(func(e event) bool {
		return e.Device == id && (e.Name == "DEVICE_DELETED" || e.Name == "DEVICE_UNPLUG_GUEST_ERROR")
	})
	defer gone.forget()
	if err := m.monitor.execute(ctx, "device_del", map[string]any{"id": id}); err != nil {
		return err
	}
	if letGo != nil {
		if err := letGo(ctx); err != nil {
			return err
		}
	}
	event, err := gone.wait(ctx)
	if err != nil {
		return fmt.Errorf("the guest has not let go of it: %w", err)
	}
	if event.Name != "DEVICE_DELETED" {
		return fmt.Errorf("the guest refused: %w", errdefs.ErrFailedPrecondition)
	}
	err = m.removeBackend(ctx, plugged.device)
	plugged.end()
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.plugged, id)
	return err
}
