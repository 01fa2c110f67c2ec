package machine

import (
	"errors"
	"fmt"
	"os"
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

// Park stops the machine. It returns in a clone, which by then has the device of the first slot. What it needs there is opened before: a
// clone does everything for the first time, which under emulation takes ten times as long.
func Park() error {
	ioPorts, err := unix.Open("/dev/port", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("park: open the I/O ports: %w", err)
	}
	slots, err := slots()
	if err != nil {
		return fmt.Errorf("park: %w", err)
	}
	if len(slots) == 0 {
		return errors.New("park: a machine without slots for devices cannot be cloned")
	}
	if err := enableSlots(slots); err != nil {
		return fmt.Errorf("park: %w", err)
	}
	first, err := unix.Open(slots[0], unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("park: open the first slot: %w", err)
	}
	if _, err := unix.Pwrite(ioPorts, []byte{panicked}, panicPort); err != nil {
		return fmt.Errorf("park: %w", err)
	}
	if _, err := unix.Pwrite(first, []byte(look), 0); err != nil {
		return fmt.Errorf("look for the first device: %w", err)
	}
	return errors.Join(unix.Close(ioPorts), unix.Close(first))
}
