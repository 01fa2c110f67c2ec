package requests

import (
	"path"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/internal/defaultspec"
)

// The specification of a container that a run request asks for. What the request and the image leave open is as in containerd's default
// specification, but for the network, which is the machine's.

// networkFiles are the machine's files that a container has too, where there are such.
var networkFiles = []string{"/etc/resolv.conf", "/etc/hosts"}

// defaultFiles is the limit of open files.
const defaultFiles = 1024

// surroundings are what a container's specification depends on besides its request.
type surroundings struct {
	image        protocol.ImageInfo
	user         specs.User // who the process is to be, by the image's files
	networkFiles []string   // those that the machine has
	hostname     string
}

// planRun is the specification of a run.
func planRun(r protocol.RunRequest, s surroundings) (*specs.Spec, error) {
	process, err := runProcess(r, s)
	if err != nil {
		return nil, err
	}
	mounts := defaultspec.Mounts()
	for _, file := range s.networkFiles {
		mounts = append(mounts, specs.Mount{Destination: file, Type: "bind", Source: file, Options: []string{"bind", "ro"}})
	}
	for _, mount := range r.Mounts {
		planned, err := planMount(mount)
		if err != nil {
			return nil, err
		}
		mounts = append(mounts, planned)
	}
	return &specs.Spec{
		Version: specs.Version, Process: process, Root: &specs.Root{}, Hostname: s.hostname, Mounts: mounts,
		Linux: &specs.Linux{
			MaskedPaths: defaultspec.MaskedPaths(), ReadonlyPaths: defaultspec.ReadonlyPaths(),
			Resources: &specs.LinuxResources{Devices: defaultspec.Devices()},
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
				{Type: specs.CgroupNamespace},
			},
		},
	}, nil
}

// runProcess is the process of a run.
func runProcess(r protocol.RunRequest, s surroundings) (*specs.Process, error) {
	base, err := pairsOf(s.image.Env)
	if err != nil {
		return nil, err
	}
	env, err := environment(append([]protocol.Pair{machineEnv[0]}, base...), r.Env, r.TTY)
	if err != nil {
		return nil, err
	}
	arguments := r.Command
	if len(arguments) == 0 {
		arguments = s.image.Cmd
	}
	arguments = append(append([]string{}, s.image.Entrypoint...), arguments...)
	if len(arguments) == 0 {
		return nil, invalid("run: neither the request nor image %.128q says which program", r.Image)
	}
	cwd := "/"
	if s.image.Workdir != nil && *s.image.Workdir != "" {
		cwd = *s.image.Workdir
	}
	if r.Workdir != nil {
		cwd = *r.Workdir
	}
	if !path.IsAbs(cwd) {
		return nil, invalid("run: working directory %.128q is not absolute", cwd)
	}
	return &specs.Process{
		Terminal: r.TTY, User: s.user, Args: arguments, Env: env, Cwd: cwd, NoNewPrivileges: true,
		Capabilities: defaultspec.Capabilities(),
		Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: defaultFiles, Soft: defaultFiles}},
	}, nil
}

// pairsOf splits an image's environment.
func pairsOf(env []string) ([]protocol.Pair, error) {
	var pairs []protocol.Pair
	for _, line := range env {
		name, value, ok := strings.Cut(line, "=")
		if !ok {
			return nil, invalid("run: the image's environment has %.64q: want NAME=VALUE", line)
		}
		pairs = append(pairs, protocol.Pair{Name: name, Value: value})
	}
	return pairs, nil
}

// planMount is the bind mount of a path of the machine in a container.
func planMount(m protocol.Share) (specs.Mount, error) {
	for _, name := range []string{m.Tag, m.Target} {
		if !path.IsAbs(name) || len(name) > maxPath || strings.ContainsRune(name, 0) || path.Clean(name) != strings.TrimSuffix(name, "/") {
			return specs.Mount{}, invalid("run: mount %.64q: want an absolute path without ..", name)
		}
	}
	access := "rw"
	if m.ReadOnly {
		access = "ro"
	}
	return specs.Mount{Destination: m.Target, Type: "bind", Source: m.Tag, Options: []string{"rbind", "rprivate", access}}, nil
}
