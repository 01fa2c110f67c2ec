package oci

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/guest/protocol"
)

// Volume is a file system in the guest's memory, or a directory of one.
type Volume struct {
	Name        string // unique in the sandbox
	Destination string // in the container, for messages
	// Part is the directory of another volume, which comes before in the plan, that this one is: "volume/path". It belongs to the one
	// container. Empty: a file system, which the sandbox's containers share.
	Part    string
	Options []string // of protocol.Mount
}

// Message has the guest make the volume.
func (v Volume) Message() protocol.Mount {
	if v.Part != "" {
		return protocol.Mount{Source: path.Join(protocol.VolumesDir, v.Part), Target: v.Target(), FSType: "bind", Options: v.Options}
	}
	return protocol.Mount{Source: "tmpfs", Target: v.Target(), FSType: "tmpfs", Options: v.Options}
}

// Target is where the guest has the volume.
func (v Volume) Target() string { return path.Join(protocol.VolumesDir, v.Name) }

// Tmpfs is what the host has mounted somewhere: a file system in memory, or a part of one.
type Tmpfs struct {
	// Whole is where the whole of it is mounted, if kubelet has made it for a pod, and Path the way from there to what is mounted here:
	// "." for all of it.
	Whole, Path string
	Size        uint64 // bytes; 0: no limit
	// Of the directory that is mounted here. The mode has set-id and sticky bits, too.
	Mode, UID, GID uint32
}

// What kubelet's paths have in them: of a volume that begins empty, and of a directory of any volume.
const (
	EmptyDir = "/kubernetes.io~empty-dir/"
	subPath  = "/volume-subpaths/"
)

// devShm is shared memory's place in a container. A pod's containers have one in common.
const devShm = "/dev/shm"

// shmSize is how large a pod's shared memory is where nothing on the host says so, in bytes: as containerd has it.
const shmSize = 64 << 20

// volume plans a mount whose files are in memory and the pod's, and tells whether it is one: such files are the guest's, not the host's.
func (p *Plan) volume(mount *specs.Mount, options Options) (bool, error) {
	var volumes []Volume
	var err error
	switch {
	case options.Pod != nil && path.Clean(mount.Destination) == devShm && (mount.Type == "tmpfs" || isBind(mount) && isPodShm(mount.Source)):
		volumes, err = p.shm(mount, options)
	case isBind(mount) && (strings.Contains(mount.Source, EmptyDir) || strings.Contains(mount.Source, subPath)):
		volumes, err = p.emptyDir(mount, options)
	}
	if err != nil || len(volumes) == 0 {
		return false, err
	}
	if !isBind(mount) {
		mount.Type, mount.Options = "bind", []string{"rbind", "rw", "nosuid", "nodev", "noexec"}
	}
	for _, volume := range volumes {
		volume.Destination = mount.Destination
		mount.Source = volume.Target()
		if !slices.ContainsFunc(p.Volumes, func(known Volume) bool { return known.Name == volume.Name }) {
			p.Volumes = append(p.Volumes, volume)
		}
	}
	return true, nil
}

// isPodShm tells whether a path is that of the shared memory that containerd makes for a pod: .../sandboxes/ID/shm.
func isPodShm(source string) bool {
	dir, name := path.Split(path.Clean(source))
	return name == "shm" && path.Base(path.Dir(path.Clean(dir))) == "sandboxes"
}

// shm plans the pod's shared memory, as large as what containerd has made for it. Where another than containerd is to make it, it has
// made none, and the container's own was planned in its place.
func (p *Plan) shm(mount *specs.Mount, options Options) ([]Volume, error) {
	size := uint64(shmSize)
	if isBind(mount) {
		here, err := options.Tmpfs(mount.Source)
		if err != nil {
			return nil, err
		}
		if here != nil {
			size = here.Size
		}
	}
	return []Volume{{Name: "shm", Options: []string{sizeOption(size), "mode=1777", "nosuid", "nodev", "noexec"}}}, nil
}

// emptyDir plans a volume that begins empty, or a directory of one, if the volume is in memory.
func (p *Plan) emptyDir(mount *specs.Mount, options Options) ([]Volume, error) {
	here, err := options.Tmpfs(mount.Source)
	if err != nil || here == nil || here.Whole == "" {
		return nil, err
	}
	whole := here
	if here.Path != "." {
		if whole, err = options.Tmpfs(here.Whole); err != nil || whole == nil {
			return nil, err
		}
	}
	volume := Volume{Name: "empty-dir-" + path.Base(here.Whole), Options: append([]string{sizeOption(whole.Size)}, whole.owner()...)}
	if here.Path == "." {
		return []Volume{volume}, nil
	}
	return []Volume{volume, {
		Name: fmt.Sprintf("sub-path-%s-%d", options.ContainerID, len(p.Volumes)), Part: path.Join(volume.Name, here.Path), Options: here.owner(),
	}}, nil
}

func sizeOption(size uint64) string { return "size=" + strconv.FormatUint(size, 10) }

// owner are the options that make a directory like the host's.
func (t *Tmpfs) owner() []string {
	return []string{fmt.Sprintf("mode=%o", t.Mode), fmt.Sprintf("uid=%d", t.UID), fmt.Sprintf("gid=%d", t.GID)}
}
