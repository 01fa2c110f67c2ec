// Package cgroup is the cgroup of a sandbox on the host: the one that the first container's configuration names. The machine and
// its daemons run in it, so that what they use is counted, and limited by the cgroups above it such as a pod's.
//
// It sets no limit itself. The containers' limits hold inside the guest, where a container that uses too much memory is ended
// alone; the same limit on the host, where guest kernel and machine monitor come on top, would end the whole machine.
//
// Hosts with cgroup v1, with v2, and with both (v1's controllers, and a v2 hierarchy at /sys/fs/cgroup/unified) are alike: the
// cgroup is made in every hierarchy there is.
package cgroup

import (
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"
)

// Path is where in each hierarchy the cgroup is that an OCI configuration means by its linux.cgroupsPath. Empty: none, for a
// configuration that names none or the root.
//
// A path that is not absolute counts from the root too. The form of systemd's users, "slice:prefix:name", becomes the directory that
// systemd would use, made without asking systemd: below the slice, which has its limits, "prefix-name.scope". A slice that systemd
// does not know is a mere directory as well. What is wrong with a slice is an errdefs.ErrInvalidArgument.
func Path(cgroupsPath string) (string, error) {
	if parts := strings.Split(cgroupsPath, ":"); len(parts) == 3 {
		slice, err := slicePath(parts[0])
		if err != nil {
			return "", fmt.Errorf("cgroup %s: %w", cgroupsPath, err)
		}
		unit, err := unitName(parts[1], parts[2])
		if err != nil {
			return "", fmt.Errorf("cgroup %s: %w", cgroupsPath, err)
		}
		cgroupsPath = path.Join(slice, unit)
	}
	if clean := path.Join("/", cgroupsPath); clean != "/" {
		return clean, nil
	}
	return "", nil
}

const sliceSuffix = ".slice"

// slicePath is the directory of a slice. Its name tells its place: a-b.slice is inside a.slice, and "-.slice" is the root.
func slicePath(slice string) (string, error) {
	switch slice {
	case "":
		return "/system" + sliceSuffix, nil // where systemd puts what names no other
	case "-" + sliceSuffix:
		return "/", nil
	}
	name, isSlice := strings.CutSuffix(slice, sliceSuffix)
	if !isSlice || strings.Contains(name, "/") {
		return "", fmt.Errorf("%q is not the name of a slice, such as kubepods-pod1.slice: %w", slice, errdefs.ErrInvalidArgument)
	}
	directory, prefix := "/", ""
	for part := range strings.SplitSeq(name, "-") {
		if part == "" {
			return "", fmt.Errorf("the slice %q has an empty part between its dashes: %w", slice, errdefs.ErrInvalidArgument)
		}
		directory = path.Join(directory, prefix+part+sliceSuffix)
		prefix += part + "-"
	}
	return directory, nil
}

// unitName is the directory inside the slice. A name that is a slice itself stays as it is.
func unitName(prefix, name string) (string, error) {
	if name == "" || strings.Contains(prefix+name, "/") {
		return "", fmt.Errorf("%q with the prefix %q is not the name of a unit: %w", name, prefix, errdefs.ErrInvalidArgument)
	}
	switch {
	case strings.HasSuffix(name, sliceSuffix):
		return name, nil
	case prefix == "":
		return name + ".scope", nil
	}
	return prefix + "-" + name + ".scope", nil
}
