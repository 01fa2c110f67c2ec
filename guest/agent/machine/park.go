package machine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"unsafe"

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

// Park stops the machine. It returns in a clone, with the device of the first slot in use. What it needs there is opened before: a clone
// does everything for the first time, which under emulation takes ten times as long.
//
// meanwhile runs in a clone, on another processor, while the kernel takes the device into use; it is left out if there is only one.
func Park(meanwhile func()) error {
	ioPorts, err := unix.Open("/dev/port", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("park: open the I/O ports: %w", err)
	}
	if _, err := unix.Seek(ioPorts, panicPort, io.SeekStart); err != nil {
		return fmt.Errorf("park: seek the I/O port: %w", err)
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
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("park: make a bell: %w", err)
	}
	if runtime.NumCPU() > 1 {
		go func() {
			if _, err := unix.Read(bell, make([]byte, ringSize)); err == nil {
				meanwhile()
			}
		}()
	}
	if err := strike(ioPorts, []byte{panicked}); err != nil {
		return fmt.Errorf("park: %w", err)
	}
	if err := errors.Join(strike(bell, binary.NativeEndian.AppendUint64(nil, 1)), strike(first, []byte(look))); err != nil {
		return fmt.Errorf("look for the first device: %w", err)
	}
	return errors.Join(unix.Close(ioPorts), unix.Close(first))
}

// ringSize is how many bytes are read from an eventfd, and written to it.
const ringSize = 8

// strike writes all of data to a file without a word to Go's scheduler: what that does before and after a call that may take long takes an
// emulated processor longer than most of these calls do.
func strike(fd int, data []byte) error {
	count, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(data))), uintptr(len(data)))
	if errno != 0 {
		return errno
	}
	if int(count) != len(data) {
		return io.ErrShortWrite
	}
	return nil
}
