package oci

import (
	"encoding/json"
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Plan is what one container asks of the host, and what the guest is told of it.
type Plan struct {
	// Spec is the guest's OCI configuration.
	Spec *specs.Spec
	// Binds are the host's files and directories that the container sees.
	Binds []Bind
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
	// HasMountsBelow tells whether anything is mounted below a directory of the host, not on it. It is asked for recursive
	// read-only binds.
	HasMountsBelow func(dir string) (bool, error)
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

// namespaces decides about each namespace. A container's network namespace stays on the host, for the anchor: what is in it is
// extended into the guest, whose own network is that of all its containers. The other namespaces are made anew in the guest; the
// host's cannot be had there.
func (p *Plan) namespaces(Options) error {
	linux := p.Spec.Linux
	found := map[specs.LinuxNamespaceType]bool{}
	kept := []specs.LinuxNamespace{}
	for _, namespace := range linux.Namespaces {
		found[namespace.Type] = true
		switch namespace.Type {
		case specs.NetworkNamespace:
			p.NetNS = namespace.Path
			p.NewNetNS = namespace.Path == ""
			continue
		case specs.UserNamespace:
			if namespace.Path != "" {
				return fmt.Errorf("a user namespace of the host (%s) cannot be joined from a VM: %w", namespace.Path, errdefs.ErrNotImplemented)
			}
		}
		kept = append(kept, specs.LinuxNamespace{Type: namespace.Type})
	}
	for _, required := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.IPCNamespace, specs.MountNamespace} {
		if !found[required] {
			return fmt.Errorf("the host's %s namespace cannot be shared with a VM: let the container have its own: %w",
				required, errdefs.ErrNotImplemented)
		}
	}
	linux.Namespaces = kept
	if len(linux.NetDevices) > 0 {
		return fmt.Errorf("network devices of the host cannot be moved into a VM (linux.netDevices): %w", errdefs.ErrNotImplemented)
	}
	return nil
}

// sysctls takes out those of the network: they belong to the sandbox's network, which a container only shares.
func (p *Plan) sysctls() {
	p.NetSysctls = map[string]string{}
	for name, value := range p.Spec.Linux.Sysctl {
		if strings.HasPrefix(name, "net.") || strings.HasPrefix(name, "net/") {
			delete(p.Spec.Linux.Sysctl, name)
			p.NetSysctls[name] = value
		}
	}
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
