package machine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// The host plugs devices into slots: PCI Express ports of the root bus, with one place behind each. The kernel has no driver that would
// attend to them: it looks for a device when it is told to, and a device goes when its slot is turned off.

const (
	// lookFiles match the files by which the kernel is told to look for a device behind a port of the root bus, and look is what it is told.
	lookFiles = "/sys/bus/pci/devices/0000:00:*/pci_bus/*/rescan"
	look      = "1"
)

// slots returns the files of the slots, in the order of their places on the root bus.
func slots() ([]string, error) {
	files, err := filepath.Glob(lookFiles)
	slices.Sort(files)
	return files, err
}

// enableSlots turns the ports of slots on, with their interrupts, which the kernel does else when the first device comes.
func enableSlots(files []string) error {
	for _, file := range files {
		port := filepath.Join(file, "../../..")
		if err := os.WriteFile(filepath.Join(port, "enable"), []byte("1"), 0); err != nil {
			return fmt.Errorf("turn a slot on: %w", err)
		}
	}
	return nil
}

// FindDevices has the kernel look for devices that are new in the slots, and take them into use. Of a slot in which there is nothing it
// could not know without giving it addresses.
func FindDevices() error {
	files, err := slots()
	for _, file := range files {
		taken, takenErr := occupied(filepath.Join(file, "../../.."))
		if taken {
			takenErr = os.WriteFile(file, []byte(look), 0)
		}
		err = errors.Join(err, takenErr)
	}
	if err != nil {
		return fmt.Errorf("look for new devices: %w", err)
	}
	return nil
}

// occupied tells whether there is a device in the slot of a port, which is named by its directory in sysfs.
func occupied(port string) (bool, error) {
	config, err := os.Open(filepath.Join(port, "config"))
	if err != nil {
		return false, err
	}
	defer config.Close()
	express, err := findExpress(config)
	if err != nil {
		return false, fmt.Errorf("%s: %w", port, err)
	}
	var status [2]byte
	_, err = config.ReadAt(status[:], express+slotStatus)
	return binary.LittleEndian.Uint16(status[:])&present != 0, err
}

// Parts of a PCI Express port's configuration space (PCI Express Base Specification, 7.5): where its list of capabilities begins, the
// identifier of the one of PCI Express, the places in it of the slot's control and status, the bits of the one that turn power and its
// light off, and the bit of the other that a device sets.
const (
	capabilitiesPointer = 0x34
	expressCapability   = 0x10
	slotControl         = 0x18
	slotStatus          = 0x1a
	powerOff            = 0x0400 | 0x0300
	present             = 0x0040
	// maxCapabilities is how many fit into the 256 bytes.
	maxCapabilities = 48
)

// Eject lets go of a virtio device, which is named by its directory in sysfs, and turns its slot off.
func Eject(virtioDevice string) error {
	device, err := filepath.EvalSymlinks(virtioDevice) // PORT/FUNCTION/virtioN
	if err != nil {
		return fmt.Errorf("eject a device: %w", err)
	}
	function := filepath.Dir(device)
	port := filepath.Dir(function)
	if err := os.WriteFile(filepath.Join(function, "remove"), []byte("1"), 0); err != nil {
		return fmt.Errorf("eject a device: %w", err)
	}
	config, err := os.OpenFile(filepath.Join(port, "config"), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("eject a device: %w", err)
	}
	defer config.Close()
	express, err := findExpress(config)
	if err == nil {
		_, err = config.WriteAt(binary.LittleEndian.AppendUint16(nil, powerOff), express+slotControl)
	}
	if err != nil {
		return fmt.Errorf("eject a device: turn its slot off: %w", err)
	}
	return nil
}

// findExpress returns the place of the capability of PCI Express in a port's configuration space.
func findExpress(config io.ReaderAt) (int64, error) {
	var next [1]byte
	if _, err := config.ReadAt(next[:], capabilitiesPointer); err != nil {
		return 0, err
	}
	for range maxCapabilities {
		var head [2]byte // identifier, place of the next
		if _, err := config.ReadAt(head[:], int64(next[0])); err != nil {
			return 0, err
		}
		if head[0] == expressCapability {
			return int64(next[0]), nil
		}
		if next[0] = head[1]; next[0] == 0 {
			break
		}
	}
	return 0, errors.New("the port is none of PCI Express")
}
