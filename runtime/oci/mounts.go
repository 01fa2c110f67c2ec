package oci

import (
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Bind is a file or directory of the host that a container sees.
type Bind struct {
	Name        string // unique in the container; the guest finds it as mounts/<Name>
	Source      string // absolute, on the host
	Destination string // in the container, for messages
	Recursive   bool   // with the mounts below it
	ReadOnly    bool   // the source; what is mounted below it only if ReadOnlyBelow
	// ReadOnlyBelow: the mounts below it are read-only too.
	ReadOnlyBelow bool
	// Slave: what the host mounts below it later appears in the container.
	Slave bool
	// IDMap says who owns its files in the container; nil: who owns them on the host.
	IDMap *IDMap
	// Common: other containers of the pod may have it, too.
	Common bool
}

// IDMap maps the owners of files: an id of a file (the mapping's container id) is seen as another one (its host id).
type IDMap struct {
	UIDs, GIDs []specs.LinuxIDMapping
	Recursive  bool // also of what is mounted below
}

// guestTypes are the file systems that the guest's kernel makes from nothing.
var guestTypes = []string{"proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "ramfs"}

// mounts splits the container's mounts: binds come from the host through the share, kernel file systems are made in the guest.
func (p *Plan) mounts(options Options) error {
	p.replaceFiles(options)
	p.podFiles(options)
	for i := range p.Spec.Mounts {
		mount := &p.Spec.Mounts[i]
		if err := refusePropagation(mount); err != nil {
			return err
		}
		inMemory, err := p.volume(mount, options)
		if err != nil {
			return fmt.Errorf("mount on %s: %w", mount.Destination, err)
		}
		switch {
		case inMemory:
		case isBind(mount):
			if err := p.bind(mount, options); err != nil {
				return err
			}
		case !slices.Contains(guestTypes, mount.Type):
			return fmt.Errorf("mount on %s: a file system of type %q cannot be mounted in the VM: mount it on the host and bind it: %w",
				mount.Destination, mount.Type, errdefs.ErrNotImplemented)
		}
	}
	return nil
}

// refusePropagation refuses what a VM cannot do by its name: who asks for it waits for mounts to appear on the host.
func refusePropagation(mount *specs.Mount) error {
	if isBind(mount) && (slices.Contains(mount.Options, "shared") || slices.Contains(mount.Options, "rshared")) {
		return fmt.Errorf("mount on %s: mounts made in a VM cannot propagate to the host (shared, rshared; in Kubernetes mountPropagation: "+
			"Bidirectional): use rslave or rprivate (HostToContainer, None): %w", mount.Destination, errdefs.ErrNotImplemented)
	}
	return nil
}

// replaceFiles has the container mount those of Files, in place of its own mounts or beside them.
func (p *Plan) replaceFiles(options Options) {
	p.Spec.Mounts = slices.DeleteFunc(p.Spec.Mounts, func(mount specs.Mount) bool {
		_, replaced := options.Files[path.Clean(mount.Destination)]
		return replaced
	})
	for _, destination := range slices.Sorted(maps.Keys(options.Files)) {
		p.Spec.Mounts = append(p.Spec.Mounts, p.fileMount(destination, options.Files[destination]))
	}
}

// fileMount is a mount of a file of the host's that limpet has made. It is as writable as the root file system.
func (p *Plan) fileMount(destination, source string) specs.Mount {
	mount := specs.Mount{Destination: destination, Type: "bind", Source: source, Options: []string{"bind"}}
	if p.Spec.Root.Readonly {
		mount.Options = append(mount.Options, "ro")
	}
	return mount
}

// podFiles adds mounts for the pod's files that are missing.
func (p *Plan) podFiles(options Options) {
	mounted := map[string]bool{}
	for _, mount := range p.Spec.Mounts {
		mounted[path.Clean(mount.Destination)] = true
	}
	for _, destination := range slices.Sorted(maps.Keys(options.PodFiles)) {
		if mounted[destination] {
			continue
		}
		p.Spec.Mounts = append(p.Spec.Mounts, p.fileMount(destination, options.PodFiles[destination]))
	}
}

func (p *Plan) bind(mount *specs.Mount, options Options) error {
	source := mount.Source
	if source == "" {
		return fmt.Errorf("mount on %s: a bind needs a source: %w", mount.Destination, errdefs.ErrInvalidArgument)
	}
	if !filepath.IsAbs(source) {
		source = filepath.Join(options.Bundle, source)
	}
	if isKernels(source) {
		return nil // the guest's own, not the host's
	}
	bind := Bind{
		Name: strconv.Itoa(len(p.Binds)), Source: filepath.Clean(source), Destination: mount.Destination, Recursive: mount.Type == "rbind",
	}
	for _, option := range mount.Options {
		switch option {
		case "rbind":
			bind.Recursive = true
		case "ro":
			bind.ReadOnly = true
		case "rw":
			bind.ReadOnly = false
		case "rro":
			bind.ReadOnly, bind.ReadOnlyBelow = true, true
		case "rrw":
			bind.ReadOnly, bind.ReadOnlyBelow = false, false
		case "slave", "rslave":
			bind.Slave = true
		}
	}
	idMap, err := takeIDMap(mount, p.Spec.Linux)
	if err != nil {
		return err
	}
	bind.IDMap = idMap
	// Of a directory of a volume kubelet makes a mount for each container.
	bind.Common = options.Pod != nil && idMap == nil && !strings.Contains(source, subPath)
	p.Binds = append(p.Binds, bind)
	mount.Source = path.Join(options.GuestDir, "mounts", bind.Name)
	return writableBelow(mount, bind, options)
}

// takeIDMap takes a bind's mapping of ids out of the guest's configuration: the host maps them. One without ids of its own has those of
// the container's user namespace.
func takeIDMap(mount *specs.Mount, linux *specs.Linux) (*IDMap, error) {
	asked := slices.Contains(mount.Options, "idmap")
	recursive := slices.Contains(mount.Options, "ridmap")
	idMap := &IDMap{UIDs: mount.UIDMappings, GIDs: mount.GIDMappings, Recursive: recursive}
	if len(idMap.UIDs)+len(idMap.GIDs) == 0 {
		if !asked && !recursive {
			return nil, nil
		}
		idMap.UIDs, idMap.GIDs = linux.UIDMappings, linux.GIDMappings
	}
	if len(idMap.UIDs) == 0 || len(idMap.GIDs) == 0 {
		return nil, fmt.Errorf("mount on %s: ids are to be mapped, but no mapping of user ids and group ids is given: %w", mount.Destination,
			errdefs.ErrInvalidArgument)
	}
	mount.UIDMappings, mount.GIDMappings = nil, nil
	mount.Options = slices.DeleteFunc(mount.Options, func(option string) bool { return option == "idmap" || option == "ridmap" })
	return idMap, nil
}

// writableBelow leaves it to the host alone to keep a bind read-only if there are mounts below it that are not: in the guest they
// become mounts when they are first visited, and would be as read-only as what they are in.
func writableBelow(mount *specs.Mount, bind Bind, options Options) error {
	if !bind.ReadOnly || bind.ReadOnlyBelow || !bind.Recursive {
		return nil
	}
	below, err := options.HasMountsBelow(bind.Source)
	if err != nil {
		return fmt.Errorf("mount on %s: %w", mount.Destination, err)
	}
	if below {
		mount.Options = slices.DeleteFunc(mount.Options, func(option string) bool { return option == "ro" })
	}
	return nil
}

// BindSource is the path on the host of what a container mounts on a path, or "" if it binds nothing there. bundle is its bundle's
// directory.
func BindSource(spec *specs.Spec, bundle, destination string) string {
	source := ""
	for _, mount := range spec.Mounts {
		if path.Clean(mount.Destination) != destination || !isBind(&mount) || mount.Source == "" {
			continue
		}
		if source = mount.Source; !filepath.IsAbs(source) {
			source = filepath.Join(bundle, source)
		}
	}
	return source
}

func isBind(mount *specs.Mount) bool {
	return mount.Type == "bind" || mount.Type == "rbind" ||
		slices.Contains(mount.Options, "bind") || slices.Contains(mount.Options, "rbind")
}

// isKernels tells whether a path is part of a kernel's own face, of which the guest has one too. /dev/shm holds ordinary files.
func isKernels(source string) bool {
	for _, root := range []string{"/proc", "/sys", "/dev"} {
		if within(source, root) {
			return !within(source, "/dev/shm")
		}
	}
	return false
}

func within(name, root string) bool {
	name = filepath.Clean(name)
	return name == root || strings.HasPrefix(name, root+"/")
}
