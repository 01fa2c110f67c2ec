package qemu

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/hypervisor"
)

const (
	// addedMemory names the device that has the memory that is added (virtio-mem), and addedBackend what is behind it.
	addedMemory  = "added-memory"
	addedBackend = "added-memory-backend"
)

// ResizeMemory implements hypervisor.Machine.
func (m *machine) ResizeMemory(ctx context.Context, added int) error {
	end, err := m.begin(ctx, "resize the memory of", running)
	if err != nil {
		return err
	}
	defer end()
	if err := m.resizeMemory(ctx, added); err != nil {
		return fmt.Errorf("add %d MiB to the memory of machine %s: %w", added, m.plan.config.Name, err)
	}
	return nil
}

func (m *machine) resizeMemory(ctx context.Context, added int) error {
	room := roomForMemory(m.plan.config)
	if added < 0 || added > room || added%hypervisor.MemoryStepMiB != 0 {
		return fmt.Errorf("it can be up to %d MiB in steps of %d: %w", room, hypervisor.MemoryStepMiB, errdefs.ErrInvalidArgument)
	}
	switch {
	case m.has(addedMemory):
		return m.monitor.execute(ctx, "qom-set", memoryRequest(added))
	case added > 0:
		return m.plugMemory(ctx, room, added)
	}
	return nil
}

// plugMemory adds the device that has the added memory.
func (m *machine) plugMemory(ctx context.Context, room, added int) error {
	port, err := m.freePort()
	if err != nil {
		return err
	}
	if err := m.monitor.execute(ctx, "object-add", memoryObject(room)); err != nil {
		return err
	}
	plan := memoryDevice(port, added)
	if err := m.monitor.execute(ctx, "device_add", plan.arguments); err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		return errors.Join(err, m.monitor.execute(ctx, "object-del", map[string]any{"id": addedBackend}))
	}
	m.keep(addedMemory, &pluggedDevice{device: plan, port: port})
	return nil
}

// roomForMemory is how many MiB can be added to a machine.
func roomForMemory(config hypervisor.Config) int {
	room := max(0, config.MaxMemoryMiB-config.MemoryMiB)
	return room - room%hypervisor.MemoryStepMiB
}

// memoryObject is room for all the memory that may ever be added: a file of which only what the guest uses takes memory of the host.
// It is shared, because vhost-user daemons map it.
func memoryObject(room int) map[string]any {
	return map[string]any{"qom-type": "memory-backend-memfd", "id": addedBackend, "share": true, "size": inBytes(room)}
}

// memoryDevice plans the plugging of the device that hands the memory out.
func memoryDevice(port string, added int) device {
	return device{arguments: map[string]any{
		"driver": "virtio-mem-pci", "id": addedMemory, "bus": port, "memdev": addedBackend, "requested-size": inBytes(added),
	}}
}

// memoryRequest has the plugged device ask the guest to take more, or to give some back.
func memoryRequest(added int) map[string]any {
	return map[string]any{"path": "/machine/peripheral/" + addedMemory, "property": "requested-size", "value": inBytes(added)}
}

func inBytes(mebibytes int) int64 { return int64(mebibytes) << 20 }
