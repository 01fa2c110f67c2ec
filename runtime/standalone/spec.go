package standalone

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Image is what an image says of the commands that are run from it.
type Image struct {
	Entrypoint, Cmd []string
	Env             []string // NAME=value
	Workdir         string
	User            string
}

// defaultEnv is what every command has, unless image or user say otherwise.
var defaultEnv = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

// defaultCapabilities are those that containers get everywhere if nobody asks for others.
var defaultCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP",
	"CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// annotationImageName is by which CRI, and limpet ps, know what a container is made of.
const annotationImageName = "io.kubernetes.cri.image-name"

// cpuPeriod is that of the limit of processors, in microseconds: the kernel's own.
const cpuPeriod = 100000

// Host is what of the host a run has.
type Host struct {
	Root  string            // the directory of its root file system; of no meaning if that is in the guest
	NetNS string            // the path of its network namespace; empty: it has one without a network
	Files map[string]string // files of the host's, by their paths in the container
}

// NewSpec is the OCI configuration of a run. That there is nothing to run is an ErrInvalidArgument.
func NewSpec(request Request, image Image, host Host) (*specs.Spec, error) {
	args := command(request, image)
	if len(args) == 0 {
		return nil, fmt.Errorf("%s does not say what to run: name a command after it: %w", request.Source, errdefs.ErrInvalidArgument)
	}
	workdir := firstOf(request.Workdir, image.Workdir, "/")
	if !filepath.IsAbs(workdir) {
		return nil, fmt.Errorf("working directory %q is not absolute: %w", workdir, errdefs.ErrInvalidArgument)
	}
	env := [][]string{defaultEnv, image.Env, request.Env}
	process := &specs.Process{
		Args: args, Cwd: workdir, Terminal: request.Terminal,
		// Names are looked up in the guest.
		User: specs.User{Username: firstOf(request.User, image.User)},
		Capabilities: &specs.LinuxCapabilities{
			Bounding: defaultCapabilities, Effective: defaultCapabilities, Permitted: defaultCapabilities,
		},
	}
	if request.Terminal {
		env = slices.Insert(env, 1, []string{"TERM=xterm"})
		if request.Size != (Size{}) {
			process.ConsoleSize = &specs.Box{Width: uint(request.Size.Columns), Height: uint(request.Size.Rows)}
		}
	}
	process.Env = mergeEnv(env...)
	return &specs.Spec{
		Annotations: map[string]string{annotationImageName: request.Source},
		Version:     specs.Version, Hostname: firstOf(request.Hostname, request.Name), Process: process,
		Root:   &specs.Root{Path: host.Root, Readonly: request.ReadOnly},
		Mounts: mounts(request.Volumes, host.Files),
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
				{Type: specs.NetworkNamespace, Path: host.NetNS}, {Type: specs.CgroupNamespace},
			},
			Resources: resources(request),
			MaskedPaths: []string{
				"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
				"/proc/sched_debug", "/sys/firmware", "/sys/devices/virtual/powercap", "/proc/scsi",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}, nil
}

// command is what is run. Who names another entrypoint does not get the image's arguments.
func command(request Request, image Image) []string {
	entrypoint, cmd := image.Entrypoint, image.Cmd
	if request.Entrypoint != nil {
		entrypoint, cmd = nil, nil
		if *request.Entrypoint != "" {
			entrypoint = []string{*request.Entrypoint}
		}
	}
	if len(request.Args) > 0 {
		cmd = request.Args
	}
	return slices.Concat(entrypoint, cmd)
}

// mergeEnv joins lists of variables: a later value replaces an earlier one, in its place.
func mergeEnv(lists ...[]string) []string {
	var merged []string
	place := map[string]int{}
	for _, variable := range slices.Concat(lists...) {
		name, _, _ := strings.Cut(variable, "=")
		if i, ok := place[name]; ok {
			merged[i] = variable
			continue
		}
		place[name] = len(merged)
		merged = append(merged, variable)
	}
	return merged
}

func firstOf(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return ""
}

// mounts are the kernel's file systems that every container has, files by their paths, and the volumes.
func mounts(volumes []Volume, files map[string]string) []specs.Mount {
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts",
			Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}},
	}
	for _, destination := range sortedKeys(files) {
		mounts = append(mounts, bind(files[destination], destination, false))
	}
	for _, volume := range volumes {
		mounts = append(mounts, bind(volume.Source, volume.Destination, volume.ReadOnly))
	}
	return mounts
}

func bind(source, destination string, readOnly bool) specs.Mount {
	mount := specs.Mount{Destination: destination, Type: "bind", Source: source, Options: []string{"rbind"}}
	if readOnly {
		mount.Options = append(mount.Options, "rro")
	}
	return mount
}

// resources are the limits. Devices are denied but for those that every container has, which the guest adds.
func resources(request Request) *specs.LinuxResources {
	limits := &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}}
	if request.CPUs > 0 {
		quota, period := int64(request.CPUs*cpuPeriod), uint64(cpuPeriod)
		limits.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
	}
	if request.Memory > 0 {
		limits.Memory = &specs.LinuxMemory{Limit: &request.Memory}
	}
	return limits
}
