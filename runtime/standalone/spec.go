package standalone

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/internal/defaultspec"
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
		User:         specs.User{Username: firstOf(request.User, image.User)},
		Capabilities: defaultspec.Capabilities(),
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
			Resources:   resources(request),
			MaskedPaths: defaultspec.MaskedPaths(), ReadonlyPaths: defaultspec.ReadonlyPaths(),
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
	mounts := defaultspec.Mounts()
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

// resources are the limits.
func resources(request Request) *specs.LinuxResources {
	limits := &specs.LinuxResources{Devices: defaultspec.Devices()}
	if request.CPUs > 0 {
		quota, period := int64(request.CPUs*cpuPeriod), uint64(cpuPeriod)
		limits.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
	}
	if request.Memory > 0 {
		limits.Memory = &specs.LinuxMemory{Limit: &request.Memory}
	}
	return limits
}
