package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/runtime/oci"
)

// diskTimeout is how long the guest may take to find a disk: the first one, with its controller, comes in half a second under emulation.
const diskTimeout = 30 * time.Second

// diskKey tells the disks of a machine apart. A device that some containers may write to and others not is two disks: it is the machine
// that does not write.
type diskKey struct {
	major, minor int64 // on the host
	readOnly     bool
}

// pluggedDisk is a disk of the machine.
type pluggedDisk struct {
	serial string // never that of another disk
	number oci.Number
}

// plugDisks gives the container its disks, which it shares with the other containers that have the same devices.
func (c *Container) plugDisks(ctx context.Context) error {
	s := c.sandbox
	var numbers []oci.Number
	for _, disk := range c.plan.Disks {
		key := diskKey{disk.Major, disk.Minor, disk.ReadOnly}
		plugged, err := s.disks.acquire(ctx, key, func(ctx context.Context) (pluggedDisk, error) { return s.plugDisk(ctx, disk) })
		if err != nil {
			return fmt.Errorf("device %s (b %d:%d): %w", disk.Path, disk.Major, disk.Minor, err)
		}
		c.undo.push("unplug "+disk.Path, s.dropDisk(key, plugged.serial))
		numbers = append(numbers, plugged.number)
	}
	c.plan.PlaceDisks(numbers)
	return nil
}

// plugDisk makes a block device of the host a disk of the machine, and waits until the guest has it.
func (s *Sandbox) plugDisk(ctx context.Context, disk oci.Disk) (pluggedDisk, error) {
	device, err := openBlockDevice(disk.Major, disk.Minor, disk.ReadOnly)
	if err != nil {
		return pluggedDisk{}, err
	}
	defer device.Close()
	serial := fmt.Sprintf("disk-%d", s.lastDisk.Add(1))
	if err := s.machine.Plug(ctx, hypervisor.Disk{ID: serial, File: device, ReadOnly: disk.ReadOnly}); err != nil {
		return pluggedDisk{}, err
	}
	answer, err := s.call(ctx, diskTimeout, protocol.Plug{Device: protocol.PlugDisk, Serial: serial})
	number, ok := answer.(protocol.BlockDevice)
	if err == nil && !ok {
		err = fmt.Errorf("its answer is a %T", answer)
	}
	if err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		return pluggedDisk{}, errors.Join(fmt.Errorf("the guest does not take its disk: %w", err), s.unplugDisk(ctx, serial))
	}
	return pluggedDisk{serial, oci.Number{Major: int64(number.Major), Minor: int64(number.Minor)}}, nil
}

// dropDisk ends one use of a disk, which goes with the last. It may be tried again after an error.
func (s *Sandbox) dropDisk(key diskKey, serial string) func(context.Context) error {
	released, last := false, false
	return func(ctx context.Context) error {
		if !released {
			released, last = true, s.disks.release(key)
		}
		if !last {
			return nil
		}
		return s.unplugDisk(ctx, serial)
	}
}

// unplugDisk takes a disk from the machine, if there still is one.
func (s *Sandbox) unplugDisk(ctx context.Context, serial string) error {
	if s.isLost() {
		return nil
	}
	err := s.machine.Unplug(ctx, serial, nil)
	if errdefs.IsNotFound(err) || s.isLost() {
		return nil
	}
	return err
}

// openBlockDevice opens the block device of the host with these numbers.
func openBlockDevice(major, minor int64, readOnly bool) (*os.File, error) {
	name, err := blockDeviceName(fmt.Sprintf("/sys/dev/block/%d:%d/uevent", major, minor))
	if err != nil {
		return nil, fmt.Errorf("the host has no such block device: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	flags := os.O_RDWR
	if readOnly {
		flags = os.O_RDONLY
	}
	device, err := os.OpenFile(filepath.Join("/dev", name), flags, 0)
	if err != nil {
		return nil, fmt.Errorf("open it on the host: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	var status unix.Stat_t
	err = unix.Fstat(int(device.Fd()), &status)
	if err == nil && (status.Mode&unix.S_IFMT != unix.S_IFBLK || status.Rdev != unix.Mkdev(uint32(major), uint32(minor))) {
		err = fmt.Errorf("%s is another device: %w", device.Name(), errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return nil, errors.Join(err, device.Close())
	}
	return device, nil
}

// blockDeviceName is the name below /dev that the kernel gives a device, by its file in sysfs.
func blockDeviceName(uevent string) (string, error) {
	text, err := os.ReadFile(uevent)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVNAME="); ok && filepath.IsLocal(name) {
			return name, nil
		}
	}
	return "", fmt.Errorf("%s names no device", uevent)
}
