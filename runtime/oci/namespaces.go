package oci

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/guest/protocol"
)

// namespaces decides about each namespace. A container's network namespace stays on the host, for the anchor: what is in it is
// extended into the guest, whose own network is that of all its containers. The other namespaces are made in the guest: anew, or
// they are the pod's or another container's of the sandbox. The host's cannot be had there.
func (p *Plan) namespaces(options Options) error {
	linux := p.Spec.Linux
	found := map[specs.LinuxNamespaceType]bool{}
	kept := []specs.LinuxNamespace{}
	for _, namespace := range linux.Namespaces {
		found[namespace.Type] = true
		if namespace.Type == specs.NetworkNamespace {
			if err := p.network(namespace.Path, options); err != nil {
				return err
			}
			continue
		}
		if namespace.Path != "" {
			word, err := shared(namespace, options)
			if err != nil {
				return err
			}
			namespace.Path = word
		}
		kept = append(kept, namespace)
	}
	if options.Pod != nil && !found[specs.PIDNamespace] {
		found[specs.PIDNamespace] = true
		kept = append(kept, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: protocol.PodNamespace})
		p.drop("the host's PID namespace: the container is in the pod's")
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

// network decides about the network namespace. A pod has one, and so have all its containers.
func (p *Plan) network(path string, options Options) error {
	if pod := options.Pod; pod != nil && (path == "" || path != pod.NetNS && owner(specs.NetworkNamespace, path, options) == "") {
		return fmt.Errorf("the network namespace %q is not the pod's (%s): the containers of a pod share one network: %w",
			path, pod.NetNS, errdefs.ErrNotImplemented)
	}
	p.NetNS, p.NewNetNS = path, path == ""
	return nil
}

// sharable are the types of namespaces that a container can have of another.
var sharable = []specs.LinuxNamespaceType{specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.UserNamespace}

// shared is the word for a namespace of the host's that stands for one of the sandbox's.
func shared(namespace specs.LinuxNamespace, options Options) (string, error) {
	if !slices.Contains(sharable, namespace.Type) {
		return "", fmt.Errorf("the %s namespace %s cannot be joined in a VM: let the container have its own: %w",
			namespace.Type, namespace.Path, errdefs.ErrNotImplemented)
	}
	word := owner(namespace.Type, namespace.Path, options)
	if word == "" {
		return "", fmt.Errorf("the %s namespace %s is not that of a container in the same VM, and no other can be joined from there: %w",
			namespace.Type, namespace.Path, errdefs.ErrNotImplemented)
	}
	return word, nil
}

// namespacePath is what a process's namespace is called by everybody who gives its path.
var namespacePath = regexp.MustCompile(`^/proc/([0-9]+)/ns/([a-z]+)$`)

// fileTypes are the types of namespaces by the names of their files. See namespaces(7).
var fileTypes = map[string]specs.LinuxNamespaceType{
	"net": specs.NetworkNamespace, "pid": specs.PIDNamespace, "ipc": specs.IPCNamespace, "uts": specs.UTSNamespace,
	"user": specs.UserNamespace,
}

// owner is whose namespace of that type the path is; empty: of nobody in the sandbox.
func owner(kind specs.LinuxNamespaceType, path string, options Options) string {
	parts := namespacePath.FindStringSubmatch(filepath.Clean(path))
	if parts == nil || fileTypes[parts[2]] != kind || options.Owner == nil {
		return ""
	}
	pid, err := strconv.Atoi(parts[1])
	if err != nil { // more than a process can have
		return ""
	}
	return options.Owner(pid)
}

// hostNamespaces decides about namespaces of the host that a pod asks for instead of its own. Its containers all see each other's
// processes then, and none of the host's; what the host shares by IPC they would miss without a word: ErrNotImplemented.
func (p *Pod) hostNamespaces(pid, ipc bool) error {
	if ipc {
		return fmt.Errorf("the host's ipc namespace cannot be shared with a VM: let the pod have its own: %w", errdefs.ErrNotImplemented)
	}
	if pid {
		p.Dropped = append(p.Dropped, "the host's PID namespace: the containers share one of the pod's")
	}
	return nil
}

// Message is what the guest is told of the pod's namespaces.
func (p *Pod) Message() protocol.Pod {
	return protocol.Pod{
		Hostname: p.Hostname, Sysctls: protocol.Pairs(p.Sysctls),
		UIDMappings: mappings(p.UIDMappings), GIDMappings: mappings(p.GIDMappings),
	}
}

func mappings(given []specs.LinuxIDMapping) []protocol.IDMapping {
	var made []protocol.IDMapping
	for _, mapping := range given {
		made = append(made, protocol.IDMapping(mapping))
	}
	return made
}
