package oci

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// guestDevices are the character devices that are the same in every kernel, by major and minor number
// (Linux, Documentation/admin-guide/devices.txt).
var guestDevices = [][2]int64{
	{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, {1, 11}, // null, zero, full, random, urandom, kmsg
	{5, 0}, {5, 1}, {5, 2}, // tty, console, ptmx
	{10, 200}, {10, 229}, // net/tun, fuse
}

// devices keeps the device nodes that mean the same in the guest, and block devices, which become disks. Any other is hardware of the
// host: asked for by name it is refused; a privileged container that is given all of the host's nodes, unasked, goes without.
func (p *Plan) devices(Options) error {
	linux := p.Spec.Linux
	unasked := givenAll(linux)
	var kept []specs.LinuxDevice
	for _, device := range linux.Devices {
		character := device.Type == "c" || device.Type == "u"
		switch {
		case device.Type == "p", character && slices.Contains(guestDevices, [2]int64{device.Major, device.Minor}):
			kept = append(kept, device)
		case unasked:
			p.drop("device " + device.Path)
		case device.Type == "b":
			kept = append(kept, device)
			p.disk(device, deviceRules(linux))
		default:
			return fmt.Errorf("device %s (%s %d:%d) of the host cannot be passed into a VM: %w",
				device.Path, device.Type, device.Major, device.Minor, errdefs.ErrNotImplemented)
		}
	}
	linux.Devices = kept
	p.dropRules()
	return nil
}

// deviceRules are those of the device cgroup.
func deviceRules(linux *specs.Linux) []specs.LinuxDeviceCgroup {
	if linux.Resources == nil {
		return nil
	}
	return linux.Resources.Devices
}

// givenAll tells whether a container is given all of the host's devices.
func givenAll(linux *specs.Linux) bool {
	return slices.ContainsFunc(deviceRules(linux), allowsAll) && slices.ContainsFunc(linux.Devices, isNull)
}

// isNull tells whether a device is /dev/null. Every container has it, so that only who lists all of the host's devices lists it.
func isNull(device specs.LinuxDevice) bool {
	return device.Type == "c" && device.Major == 1 && device.Minor == 3
}

// allowsAll tells whether a rule of the device cgroup gives access to every device.
func allowsAll(rule specs.LinuxDeviceCgroup) bool {
	return rule.Allow && (rule.Type == "" || rule.Type == "a") && wild(rule.Major) && wild(rule.Minor)
}

func wild(number *int64) bool { return number == nil || *number == -1 }
