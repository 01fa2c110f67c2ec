package oci

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// The annotations by which CRI says what a container is in a pod, and what the pod's containers were limited to when it was made
// (containerd, internal/cri/annotations).
const (
	annotationContainerType = "io.kubernetes.cri.container-type"
	containerTypeSandbox    = "sandbox"

	annotationCPUPeriod = "io.kubernetes.cri.sandbox-cpu-period" // microseconds
	annotationCPUQuota  = "io.kubernetes.cri.sandbox-cpu-quota"  // microseconds in a period
	annotationCPUShares = "io.kubernetes.cri.sandbox-cpu-shares" // 1024 for a processor
	annotationMemory    = "io.kubernetes.cri.sandbox-memory"     // bytes
)

// Pod is what a pod asks of the host and of the guest, beside its containers.
type Pod struct {
	// CgroupsPath is that of the pod's pause container, as an OCI configuration has it (linux.cgroupsPath). Empty: none.
	CgroupsPath string
	// NetNS is the path of the host's network namespace that is the pod's. Empty: a new one if NewNetNS, else the host's.
	NetNS    string
	NewNetNS bool
	// NetSysctls are the parameters of the pod's network, by name; Sysctls those of its other namespaces.
	NetSysctls, Sysctls map[string]string
	Hostname            string
	// UIDMappings and GIDMappings are those of the pod's user namespace. Empty: it has none of its own.
	UIDMappings, GIDMappings []specs.LinuxIDMapping
	Annotations              map[string]string
	// Files are those that the pod's containers have where they mount nothing themselves: texts by their paths. Empty: who made the pause
	// container mounts them.
	Files map[string]string
	// Resources are what the pod's containers come to, as far as that is known before there are any.
	Resources specs.LinuxResources
	// Dropped names what the pod asks for and does not get, for the log.
	Dropped []string
}

// IsPod tells whether a configuration is that of a pod's pause container.
func IsPod(spec *specs.Spec) bool {
	return spec.Annotations[annotationContainerType] == containerTypeSandbox
}

// NewPod reads a pod from the configuration of its pause container, which it leaves as it is. What is wrong with an annotation
// is an ErrInvalidArgument, what a VM cannot do an ErrNotImplemented.
func NewPod(spec *specs.Spec) (*Pod, error) {
	resources, err := podResources(spec.Annotations)
	if err != nil {
		return nil, err
	}
	pod := &Pod{
		CgroupsPath: spec.Linux.CgroupsPath, Hostname: spec.Hostname, Annotations: spec.Annotations, Resources: resources,
		UIDMappings: spec.Linux.UIDMappings, GIDMappings: spec.Linux.GIDMappings,
	}
	found := map[specs.LinuxNamespaceType]bool{}
	for _, namespace := range spec.Linux.Namespaces {
		found[namespace.Type] = true
		if namespace.Type == specs.NetworkNamespace {
			pod.NetNS, pod.NewNetNS = namespace.Path, namespace.Path == ""
		}
	}
	if err := pod.hostNamespaces(!found[specs.PIDNamespace], !found[specs.IPCNamespace]); err != nil {
		return nil, err
	}
	pod.NetSysctls, pod.Sysctls = splitSysctls(spec.Linux.Sysctl)
	if _, ok := pod.NetSysctls[pingGroups]; !ok && len(pod.UIDMappings) > 0 && found[specs.NetworkNamespace] {
		pod.NetSysctls[pingGroups] = allGroups
	}
	if spec.Hooks != nil {
		pod.Dropped = append(pod.Dropped, "the hooks of the pause container, which has no process")
	}
	return pod, nil
}

// Who may send echo requests without rights over the network. containerd leaves it out where a pod's users are mapped, since on a host
// their root has these rights; in the guest it has not.
const (
	pingGroups = "net.ipv4.ping_group_range"
	allGroups  = "0 2147483647"
)

// podResources reads what the annotations say of the pod's size. A number that is 0 or negative sets no limit.
func podResources(annotations map[string]string) (specs.LinuxResources, error) {
	numbers := map[string]int64{}
	for _, name := range []string{annotationCPUPeriod, annotationCPUQuota, annotationCPUShares, annotationMemory} {
		text, ok := annotations[name]
		if !ok {
			continue
		}
		number, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return specs.LinuxResources{}, fmt.Errorf("annotation %s=%q: not a number: %w", name, text, errdefs.ErrInvalidArgument)
		}
		if number > 0 {
			numbers[name] = number
		}
	}
	return newPodResources(numbers[annotationCPUPeriod], numbers[annotationCPUQuota], numbers[annotationCPUShares],
		numbers[annotationMemory]), nil
}

// newPodResources leaves out what is not positive.
func newPodResources(period, quota, shares, memory int64) specs.LinuxResources {
	resources := specs.LinuxResources{CPU: &specs.LinuxCPU{}, Memory: &specs.LinuxMemory{}}
	if period > 0 {
		value := uint64(period)
		resources.CPU.Period = &value
	}
	if quota > 0 {
		resources.CPU.Quota = &quota
	}
	if shares > 0 {
		value := uint64(shares)
		resources.CPU.Shares = &value
	}
	if memory > 0 {
		resources.Memory.Limit = &memory
	}
	return resources
}

// splitSysctls tells the parameters of the network from the others.
func splitSysctls(sysctls map[string]string) (network, others map[string]string) {
	network, others = map[string]string{}, map[string]string{}
	for name, value := range sysctls {
		if strings.HasPrefix(name, "net.") || strings.HasPrefix(name, "net/") {
			network[name] = value
		} else {
			others[name] = value
		}
	}
	return network, others
}
