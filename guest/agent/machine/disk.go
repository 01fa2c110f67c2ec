package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

// blockDevices has a directory for each block device, in which serialPage is what a disk says of its serial number and numberFile the
// device's numbers.
const (
	blockDevices = "/sys/block"
	serialPage   = "device/vpd_pg80"
	numberFile   = "dev"
)

// AwaitDisk waits for the disk with that serial number and returns the numbers of its device.
func AwaitDisk(ctx context.Context, serial string) (major, minor uint32, err error) {
	if serial == "" { // which disks without one have
		return 0, 0, fmt.Errorf("wait for a disk without a serial number: %w", errdefs.ErrInvalidArgument)
	}
	err = Await(ctx, func() (found bool, err error) {
		major, minor, found, err = findDisk(blockDevices, serial)
		return found, err
	})
	if err != nil {
		return 0, 0, fmt.Errorf("wait for disk %.64q: %w", serial, err)
	}
	return major, minor, nil
}

// FindDisk returns the path of the device of the disk with that serial number, or an ErrNotFound.
func FindDisk(serial string) (string, error) {
	major, minor, found, err := findDisk(blockDevices, serial)
	if err == nil && !found {
		err = errdefs.ErrNotFound
	}
	if err != nil {
		return "", fmt.Errorf("disk %.64q: %w", serial, err)
	}
	// devtmpfs gives a device the name that it has there.
	name, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", major, minor))
	if err != nil {
		return "", fmt.Errorf("disk %.64q: %w", serial, err)
	}
	return filepath.Join("/dev", filepath.Base(name)), nil
}

// findDisk looks for the disk among the block devices in dir. A device may go while this looks.
func findDisk(dir, serial string) (major, minor uint32, found bool, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // the directory is there from the first device on
		return 0, 0, false, err
	}
	for _, entry := range entries {
		page, err := os.ReadFile(filepath.Join(dir, entry.Name(), serialPage))
		if err != nil || serialOf(page) != serial {
			continue
		}
		number, err := os.ReadFile(filepath.Join(dir, entry.Name(), numberFile))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			_, err = fmt.Sscanf(string(number), "%d:%d", &major, &minor)
		}
		return major, minor, err == nil, err
	}
	return 0, 0, false, nil
}

// serialOf is the serial number in a SCSI disk's page of product data 0x80 (SPC-3, 7.6.10): it follows four bytes, may be surrounded
// by blanks, and is empty if there is none.
func serialOf(page []byte) string {
	const header = 4
	if len(page) < header {
		return ""
	}
	return strings.Trim(string(page[header:]), " \x00")
}
