package machine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

// A machine that is to become a template parks: it stops at an instruction of the agent's, before it has an identity. What was saved of it
// there goes on, in each clone, behind that instruction.

const (
	// panicPort is the I/O port of QEMU's pvpanic device (docs/specs/pvpanic.rst), and panicked the event at which the machine stops. The
	// device is the one way for a guest to stop the machine at once; there is no panic.
	panicPort = 0x505
	panicked  = 1
)

// ParkAsked tells whether this machine is to become a template.
func ParkAsked() (bool, error) {
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return false, fmt.Errorf("read the kernel's parameters: %w", err)
	}
	return slices.Contains(strings.Fields(string(cmdline)), protocol.ParkParameter), nil
}

// hotplugEvent is the event of the ACPI (a GPE of q35's tables, by its file in sysfs) at which the kernel looks for devices that come or go.
// A clone's devices are there before it runs. That it looks into the slots itself finds them in a third of the time.
const hotplugEvent = "/sys/firmware/acpi/interrupts/gpe01"

func writeHotplug(command string) error {
	if err := os.WriteFile(hotplugEvent, []byte(command+"\n"), 0); err != nil {
		return fmt.Errorf("%s the announcement of devices: %w", command, err)
	}
	return nil
}

// Clone is what a machine needs at hand when it parks: what a clone does then, it does with processor and caches cold.
type Clone struct {
	port  int   // descriptor of /dev/port
	slots []int // descriptors that have the kernel look for a device in a port of the root bus, in the order of the places there
}

// rescanFiles match the files behind Clone.slots.
const rescanFiles = "/sys/bus/pci/devices/0000:00:*/pci_bus/*/rescan"

// NewClone opens what is needed, for as long as the machine runs.
func NewClone() (*Clone, error) {
	clone := &Clone{}
	var err error
	if clone.port, err = unix.Open("/dev/port", unix.O_WRONLY|unix.O_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("open the I/O ports: %w", err)
	}
	paths, err := filepath.Glob(rescanFiles)
	if err != nil {
		return nil, err
	}
	slices.Sort(paths)
	for _, path := range paths {
		slot, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("open the slots of devices: %w", err)
		}
		clone.slots = append(clone.slots, slot)
	}
	if len(clone.slots) == 0 {
		return nil, fmt.Errorf("a machine without slots for devices cannot be cloned")
	}
	return clone, nil
}

// Park stops the machine. It returns in a clone, which by then has the first of its devices.
func (c *Clone) Park() error {
	if err := writeHotplug("disable"); err != nil {
		return err
	}
	if _, err := unix.Pwrite(c.port, []byte{panicked}, panicPort); err != nil {
		return fmt.Errorf("park: %w", err)
	}
	return c.rescan(c.slots[0])
}

// TakeDevices has the kernel take all other devices into use, and from here on those that it is told of. A machine that has booted (nil) does
// so by itself.
func (c *Clone) TakeDevices() error {
	if c == nil {
		return nil
	}
	// What was plugged before the clone ran has been announced, too.
	if err := errors.Join(writeHotplug("clear"), writeHotplug("enable")); err != nil {
		return err
	}
	for _, slot := range c.slots[1:] {
		if err := c.rescan(slot); err != nil {
			return err
		}
	}
	return nil
}

func (c *Clone) rescan(slot int) error {
	if _, err := unix.Pwrite(slot, []byte("1"), 0); err != nil {
		return fmt.Errorf("look for a device: %w", err)
	}
	return nil
}
