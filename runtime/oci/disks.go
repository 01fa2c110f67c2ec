package oci

import (
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Disk is a block device of the host, by its numbers there, that a container has.
type Disk struct {
	Major, Minor int64
	// ReadOnly: the rules of the device cgroup do not let the container write to it.
	ReadOnly bool
	// Path is that of the device in the container, for messages.
	Path string
}

// Number is a device's in the guest.
type Number struct{ Major, Minor int64 }

// HasDisks tells whether a container has block devices of the host.
func HasDisks(spec *specs.Spec) bool {
	return !givenAll(spec.Linux) && slices.ContainsFunc(spec.Linux.Devices, func(device specs.LinuxDevice) bool { return device.Type == "b" })
}

// disk plans a block device, once.
func (p *Plan) disk(device specs.LinuxDevice, rules []specs.LinuxDeviceCgroup) {
	if p.hasDisk(device.Major, device.Minor) {
		return
	}
	p.Disks = append(p.Disks, Disk{
		Major: device.Major, Minor: device.Minor, Path: device.Path, ReadOnly: !mayWrite(rules, device.Major, device.Minor),
	})
}

func (p *Plan) hasDisk(major, minor int64) bool {
	return slices.ContainsFunc(p.Disks, func(disk Disk) bool { return disk.Major == major && disk.Minor == minor })
}

// mayWrite tells whether rules of the device cgroup, of which a later one counts more, let a container write to a block device.
func mayWrite(rules []specs.LinuxDeviceCgroup, major, minor int64) bool {
	may := false
	for _, rule := range rules {
		kind := rule.Type == "" || rule.Type == "a" || rule.Type == "b"
		about := (wild(rule.Major) || *rule.Major == major) && (wild(rule.Minor) || *rule.Minor == minor)
		if kind && about && (rule.Access == "" || strings.Contains(rule.Access, "w")) {
			may = rule.Allow
		}
	}
	return may
}

// dropRules leaves out the rules about certain block devices of the host's that are no disks of the container: in the guest those
// numbers are of others.
func (p *Plan) dropRules() {
	resources := p.Spec.Linux.Resources
	if resources == nil {
		return
	}
	resources.Devices = slices.DeleteFunc(resources.Devices, func(rule specs.LinuxDeviceCgroup) bool {
		return rule.Type == "b" && !wild(rule.Major) && (wild(rule.Minor) || !p.hasDisk(*rule.Major, *rule.Minor))
	})
}

// PlaceDisks gives devices and rules in the guest's configuration the numbers that the container's disks have there, which are in the
// order of the plan's disks. It is to be called once.
func (p *Plan) PlaceDisks(numbers []Number) {
	placed := map[Number]Number{}
	for i, disk := range p.Disks {
		placed[Number{disk.Major, disk.Minor}] = numbers[i]
	}
	linux := p.Spec.Linux
	for i := range linux.Devices {
		device := &linux.Devices[i]
		if number, ok := placed[Number{device.Major, device.Minor}]; ok && device.Type == "b" {
			device.Major, device.Minor = number.Major, number.Minor
		}
	}
	if linux.Resources == nil {
		return
	}
	for i := range linux.Resources.Devices {
		rule := &linux.Resources.Devices[i]
		if rule.Type != "b" || wild(rule.Major) || wild(rule.Minor) {
			continue
		}
		if number, ok := placed[Number{*rule.Major, *rule.Minor}]; ok {
			rule.Major, rule.Minor = &number.Major, &number.Minor
		}
	}
}
