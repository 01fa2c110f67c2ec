package oci

import (
	"encoding/json"
	"fmt"
	"path"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Plan is what one container asks of the host, and what the guest is told of it.
type Plan struct {
	// Spec is the guest's OCI configuration.
	Spec *specs.Spec
	// Binds are the host's files and directories that the container sees.
	Binds []Bind
	// Volumes are the file systems in the guest's memory that the container sees, in the order in which they are made.
	Volumes []Volume
	// Disks are the block devices of the host that the container has. They have to be placed before the guest gets its configuration.
	Disks []Disk
	// NetNS is the path of the host's network namespace that the container belongs to. Empty: a new one if NewNetNS, else the
	// host's.
	NetNS    string
	NewNetNS bool
	// NetSysctls are the parameters of the network that the container asks for, by name. They are not in the guest's configuration,
	// which has no network namespace.
	NetSysctls map[string]string
	// Dropped names what the guest is not told because it says something about the host only, for the log.
	Dropped []string
}

// Options are what a plan needs to know beside the bundle's configuration.
type Options struct {
	ContainerID string
	Bundle      string // the bundle's directory on the host
	// GuestDir is the container's directory as the guest sees it: "rootfs" and "mounts/<name>" are below it.
	GuestDir string
	// Owner tells who in the sandbox has that process of the host for its anchor, as it is said to the guest:
	// protocol.PodNamespace, or protocol.ContainerNamespacePrefix and the container's id. Empty: nobody. nil: nobody ever.
	Owner func(pid int) string
	// Pod is the pod that the container is one of, whose namespaces it can share. nil: it is not of a pod.
	Pod *Pod
	// PodFiles are the host's files that the container has where it mounts nothing itself, by their paths in the container.
	PodFiles map[string]string
	// Files are the host's files that the container has in place of whatever it mounts there, by their paths in the container.
	Files map[string]string
	// HasMountsBelow tells whether anything is mounted below a directory of the host, not on it. It is asked for recursive
	// read-only binds.
	HasMountsBelow func(dir string) (bool, error)
	// Tmpfs tells what is mounted on a path of the host; nil if it is no mount point of a file system in memory, or is not there. It is
	// asked for what may be a volume of kubelet's.
	Tmpfs func(mountPoint string) (*Tmpfs, error)
}

// NewPlan plans a container from its bundle's configuration, which it leaves as it is. What a VM cannot do is refused by name:
// ErrNotImplemented.
func NewPlan(spec *specs.Spec, options Options) (*Plan, error) {
	guest, err := clone(spec)
	if err != nil {
		return nil, err
	}
	plan := &Plan{Spec: guest}
	for _, step := range []func(Options) error{plan.namespaces, plan.mounts, plan.devices} {
		if err := step(options); err != nil {
			return nil, fmt.Errorf("container %s: %w", options.ContainerID, err)
		}
	}
	plan.sysctls()
	plan.hooks()
	resources, dropped := GuestResources(guest.Linux.Resources)
	guest.Linux.Resources = resources
	plan.Dropped = append(plan.Dropped, dropped...)

	guest.Root.Path = path.Join(options.GuestDir, "rootfs")
	guest.Linux.CgroupsPath = "/limpet/" + options.ContainerID
	guest.Linux.MountLabel = ""
	guest.Linux.IntelRdt = nil
	TranslateProcess(guest.Process)
	return plan, nil
}

// TranslateProcess removes from a process what only the host's kernel knows: the profiles of its security modules.
func TranslateProcess(process *specs.Process) {
	process.ApparmorProfile = ""
	process.SelinuxLabel = ""
}

// sysctls takes out those of the network: they belong to the sandbox's network, which a container only shares.
func (p *Plan) sysctls() {
	p.NetSysctls, p.Spec.Linux.Sysctl = splitSysctls(p.Spec.Linux.Sysctl)
}

// hooks leaves those that run inside the container; the host runs the others.
func (p *Plan) hooks() {
	hooks := p.Spec.Hooks
	if hooks == nil {
		return
	}
	p.Spec.Hooks = nil
	if len(hooks.CreateContainer) > 0 || len(hooks.StartContainer) > 0 {
		p.Spec.Hooks = &specs.Hooks{CreateContainer: hooks.CreateContainer, StartContainer: hooks.StartContainer}
	}
}

func (p *Plan) drop(what string) { p.Dropped = append(p.Dropped, what) }

// clone copies a configuration by way of its JSON, which is what the guest gets in any case.
func clone(spec *specs.Spec) (*specs.Spec, error) {
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("copy bundle configuration: %w", err)
	}
	var copied specs.Spec
	if err := json.Unmarshal(text, &copied); err != nil {
		return nil, fmt.Errorf("copy bundle configuration: %w", err)
	}
	return &copied, nil
}
