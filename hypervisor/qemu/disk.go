package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/hypervisor"
)

// Disks are targets of one SCSI controller (virtio-scsi), which is plugged with the first of them and stays. A disk of its own port each
// (virtio-blk) would take a port that costs every boot, and go only when the guest agrees.
const (
	// diskController names the controller.
	diskController = "disks"
	// maxDisks is how many targets a virtio-scsi controller has (virtio 1.2, section 5.6.4).
	maxDisks = 256
)

// backing is what a disk is made of.
type backing struct {
	driver string // QEMU's
	cached bool   // the host caches what is read and written
	// logical and physical are sizes of blocks, in bytes: what is read and written at once, and what is so best.
	logical, physical int
}

// fileBacking is that of a regular file. It goes through the host's cache, as not every file system can leave that out.
var fileBacking = backing{driver: "file", cached: true, logical: 512, physical: 4096}

// plugDisk adds a disk whose identifier is free.
func (m *machine) plugDisk(ctx context.Context, disk hypervisor.Disk) error {
	is, err := lookAtDisk(disk.File)
	if err != nil {
		return err
	}
	if err := m.plugController(ctx); err != nil {
		return err
	}
	target, err := m.freeTarget()
	if err != nil {
		return err
	}
	plan := diskDevice(disk.ID, target, disk.ReadOnly, is)
	if err := m.addBlock(ctx, disk.File, plan, target); err != nil {
		return err
	}
	if err := m.monitor.execute(ctx, "device_add", plan.arguments); err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		return errors.Join(err, m.removeBlock(ctx, plan))
	}
	m.keep(disk.ID, &pluggedDevice{device: plan, target: target})
	return nil
}

// lookAtDisk makes sure that a file is a block device or a regular file.
func lookAtDisk(file *os.File) (backing, error) {
	info, err := file.Stat()
	if err != nil {
		return backing{}, err
	}
	if info.Mode().IsRegular() {
		return fileBacking, nil
	}
	logical, logicalErr := unix.IoctlGetInt(int(file.Fd()), unix.BLKSSZGET)
	physical, physicalErr := unix.IoctlGetInt(int(file.Fd()), unix.BLKPBSZGET)
	if err := errors.Join(logicalErr, physicalErr); err != nil {
		return backing{}, fmt.Errorf("%s is neither a block device nor a regular file: %w: %w", file.Name(), err, errdefs.ErrInvalidArgument)
	}
	return backing{driver: "host_device", logical: logical, physical: physical}, nil
}

// plugController adds the controller if there is none yet.
func (m *machine) plugController(ctx context.Context) error {
	if m.has(diskController) {
		return nil
	}
	port, err := m.freePort()
	if err != nil {
		return err
	}
	plan := controllerDevice(port)
	if err := m.monitor.execute(ctx, "device_add", plan.arguments); err != nil {
		return err
	}
	m.keep(diskController, &pluggedDevice{device: plan, port: port})
	return nil
}

// freeTarget returns a target without a disk: the next one after that of the last disk. The guest may not have noticed yet that a disk
// has gone when another comes, and is not to take one for the other.
func (m *machine) freeTarget() (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	taken := map[int]bool{}
	for _, device := range m.plugged {
		if device.device.blockdev != nil {
			taken[device.target] = true
		}
	}
	for range maxDisks {
		target := m.nextTarget
		m.nextTarget = (target + 1) % maxDisks
		if !taken[target] {
			return target, nil
		}
	}
	return 0, fmt.Errorf("the machine has %d disks: unplug one: %w", maxDisks, errdefs.ErrResourceExhausted)
}

// addBlock passes the file of a disk and has QEMU open it. A file for block devices is passed in a set with a number, the target's, and
// not by a name.
func (m *machine) addBlock(ctx context.Context, file *os.File, plan device, target int) error {
	if err := m.monitor.send(ctx, "add-fd", map[string]any{"fdset-id": target}, file); err != nil {
		return err
	}
	err := m.monitor.execute(ctx, "blockdev-add", plan.blockdev)
	if err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		err = errors.Join(err, m.removeFile(ctx, target))
	}
	return err
}

func (m *machine) removeBlock(ctx context.Context, plan device) error {
	err := m.monitor.execute(ctx, "blockdev-del", map[string]any{"node-name": plan.blockdev["node-name"]})
	return errors.Join(err, m.removeFile(ctx, plan.arguments["scsi-id"]))
}

func (m *machine) removeFile(ctx context.Context, target any) error {
	return m.monitor.execute(ctx, "remove-fd", map[string]any{"fdset-id": target})
}

// controllerDevice plans the plugging of the controller. One queue is as many as there are threads that serve it.
func controllerDevice(port string) device {
	return device{arguments: map[string]any{"driver": "virtio-scsi-pci", "id": diskController, "bus": port, "num_queues": 1}}
}

// diskDevice plans the plugging of a disk whose file has been passed in the set of the target's number. The host's cache is left out
// where that can be: the guest has one. Others may have the device open, as with containers of the host.
func diskDevice(id string, target int, readOnly bool, is backing) device {
	node := fmt.Sprintf("block%d", target)
	return device{
		blockdev: map[string]any{
			"driver": is.driver, "node-name": node, "filename": fmt.Sprintf("/dev/fdset/%d", target), "read-only": readOnly,
			"cache": map[string]any{"direct": !is.cached}, "discard": "unmap", "locking": "off",
		},
		arguments: map[string]any{
			"driver": "scsi-hd", "id": id, "bus": diskController + ".0", "scsi-id": target, "lun": 0, "drive": node, "serial": id,
			"share-rw": true, "logical_block_size": is.logical, "physical_block_size": is.physical,
		},
	}
}
