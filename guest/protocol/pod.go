package protocol

// Limits of what a Pod says. Linux has the same: HOST_NAME_MAX bytes, and UID_GID_MAP_MAX_EXTENTS lines in a map. The parameters are all
// those of an IPC and a UTS namespace several times over.
const (
	MaxHostname   = 64
	MaxIDMappings = 340
	MaxPodSysctls = 64
)

// Pod makes the namespaces that the containers of a pod share: IPC, UTS and PID, and a user namespace if there are mappings. It is sent
// once, before the first Prepare. In a container's specification the path "pod" then stands for the namespace of that type, and
// "container:ID" for that of another container.
type Pod struct {
	Hostname string `json:"hostname,omitzero" wire:"default"` // empty: the machine's
	// Sysctls are parameters of the IPC and UTS namespaces, such as kernel.shmmax. Those of the network belong to Network.
	Sysctls     []Pair      `json:"sysctls,omitzero" wire:"default"`
	UIDMappings []IDMapping `json:"uid_mappings,omitzero" wire:"default"`
	GIDMappings []IDMapping `json:"gid_mappings,omitzero" wire:"default"`
}

// IDMapping says who in the machine a range of users or groups of a user namespace are.
type IDMapping struct {
	ContainerID uint32 `json:"container_id"` // the first in the namespace
	HostID      uint32 `json:"host_id"`      // the first in the machine; files on the host belong to the same id
	Size        uint32 `json:"size"`
}

// What a namespace's path in a container's specification says instead of a path.
const (
	// PodNamespace is the pod's.
	PodNamespace = "pod"
	// ContainerNamespacePrefix, followed by a container's id, is that container's.
	ContainerNamespacePrefix = "container:"
)
