package rootfs

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Plan is a container's file system.
type Plan struct {
	Proc     *Proc // nil: the container mounts none
	Terminal bool  // it mounts a devpts at the usual place, where its terminals can come from

	mounts      []mount
	devices     []device // to be made in /dev
	links       map[string]string
	masked      []string
	readOnly    []string
	rootOnly    bool    // the root itself is read-only
	propagation uintptr // of the root: MS_PRIVATE or the like
	cwd         string
}

// Proc is the container's proc file system, which only a process of its PID namespace can mount. It does so at a place of its choice.
type Proc struct {
	Flags uintptr // of mount(2)
	Data  string
}

// kind is how a mount is made.
type kind int

const (
	fileSystem kind = iota // a new one
	proc                   // the one that a process of the container has mounted
	bind                   // a file or directory of the guest's
	group                  // the container's control group
)

// mount is one of the specification's.
type mount struct {
	kind   kind
	target string // in the root, without a slash at its beginning
	source string
	fsType string
	options
}

// pts is where a container has its terminals.
const pts = "dev/pts"

// fileSystems are the types that a container may have a new one of.
var fileSystems = []string{"tmpfs", "ramfs", "devpts", "sysfs", "mqueue"}

// New plans the file system of a specification. What it cannot do is an ErrNotImplemented.
func New(spec *specs.Spec) (*Plan, error) {
	p := &Plan{
		masked: spec.Linux.MaskedPaths, readOnly: spec.Linux.ReadonlyPaths, rootOnly: spec.Root != nil && spec.Root.Readonly,
		cwd: relative(spec.Process.Cwd),
	}
	var known bool
	if p.propagation, known = rootPropagations[spec.Linux.RootfsPropagation]; !known {
		return nil, unknown("propagation %q of the root", spec.Linux.RootfsPropagation)
	}
	hostDev := false
	for i := range spec.Mounts {
		m, err := newMount(&spec.Mounts[i])
		if err != nil {
			return nil, err
		}
		hostDev = hostDev || m.kind == bind && m.target == "dev"
		if err := p.note(m); err != nil {
			return nil, err
		}
		p.mounts = append(p.mounts, m)
	}
	if hostDev {
		return p, nil // it has what it has
	}
	p.links = links
	for _, given := range spec.Linux.Devices {
		d, err := newDevice(given)
		if err != nil {
			return nil, err
		}
		p.devices = append(p.devices, d)
	}
	p.devices = append(p.devices, usualDevices...)
	return p, nil
}

// note notes of a mount what is of interest before it is made.
func (p *Plan) note(m mount) error {
	switch {
	case m.kind == proc && p.Proc != nil:
		return unknown("a second proc on /%s", m.target)
	case m.kind == proc:
		p.Proc = &Proc{Flags: m.mountFlags(), Data: strings.Join(m.data, ",")}
	case m.kind == fileSystem && m.fsType == "devpts" && m.target == pts:
		if p.Terminal {
			return unknown("a second devpts on /%s", m.target)
		}
		p.Terminal = true
	}
	return nil
}

func newMount(given *specs.Mount) (mount, error) {
	m := mount{target: relative(given.Destination), source: given.Source, fsType: given.Type}
	if m.target == "" || len(given.UIDMappings)+len(given.GIDMappings) > 0 {
		return m, unknown("mount on %q", given.Destination)
	}
	var known bool
	if m.options, known = parseOptions(given.Options); !known {
		return m, unknown("options %q of the mount on %s", given.Options, given.Destination)
	}
	switch {
	case m.bind:
		m.kind = bind
	case given.Type == "proc":
		m.kind = proc
	case given.Options == nil: // what that means is for the OCI runtime to say
		return m, unknown("mount on %s without options", given.Destination)
	case given.Type == "cgroup" || given.Type == "cgroup2":
		m.kind = group
	case !slices.Contains(fileSystems, given.Type):
		return m, unknown("file system of type %q", given.Type)
	}
	if m.source == "" {
		m.source = given.Type
	}
	return m, nil
}

// relative is a path of the container without the slash at its beginning.
func relative(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

func unknown(format string, arguments ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, arguments...), errdefs.ErrNotImplemented)
}

// device is a device node.
type device struct {
	path   string // in the root
	mode   uint32 // with its type
	number uint64
	uid    uint32
	gid    uint32
}

// usualDevices are those that every container has: the OCI runtime specification, "Default Devices". What is missing there, the console and
// ptmx, is made of a terminal and as a link.
var usualDevices = []device{
	character("null", 1, 3), character("zero", 1, 5), character("full", 1, 7), character("random", 1, 8), character("urandom", 1, 9),
	character("tty", 5, 0),
}

func character(name string, major, minor uint32) device {
	return device{path: "dev/" + name, mode: unix.S_IFCHR | 0o666, number: unix.Mkdev(major, minor)}
}

// links are what is found in /dev beside devices: by their names there, where they lead.
var links = map[string]string{
	"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "core": "/proc/kcore",
	ptmx: "pts/ptmx",
}

// ptmx is the link that replaces whatever the image has there.
const ptmx = "ptmx"

// deviceTypes are the types of device nodes by their names in a specification.
var deviceTypes = map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}

func newDevice(given specs.LinuxDevice) (device, error) {
	kind, known := deviceTypes[given.Type]
	d := device{path: relative(given.Path), mode: kind | 0o666}
	if !known || d.path == "" || given.Major < 0 || given.Minor < 0 {
		return d, unknown("device %q of type %q", given.Path, given.Type)
	}
	if kind != unix.S_IFIFO {
		d.number = unix.Mkdev(uint32(given.Major), uint32(given.Minor))
	}
	if given.FileMode != nil {
		d.mode = kind | uint32(given.FileMode.Perm())
	}
	if given.UID != nil {
		d.uid = *given.UID
	}
	if given.GID != nil {
		d.gid = *given.GID
	}
	return d, nil
}
