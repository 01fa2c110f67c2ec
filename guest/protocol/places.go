package protocol

// Where things are in the guest.
const (
	// ContainersDir has a directory for each container. In the path of a machine request ContainersDir/ID/rootfs stands for the container's
	// root as its processes see it.
	ContainersDir = "/run/limpet/containers"
	// VolumesDir has the volumes that containers share. A volume is one name below it.
	VolumesDir = "/run/limpet/volumes"
	// RequestSocket is the unix socket for machine requests, with RequestPort's service behind it: by StreamUnix it is reached over a Duplex.
	RequestSocket = "/run/limpet/agent.sock"
	// ShareDir is where the agent mounts the sandbox's file share.
	ShareDir = "/run/limpet/share"
	// ToolsDir is where the host puts programs that the agent starts when they are asked for, in the share: the guest can only read them.
	ToolsDir = ShareDir + "/" + ToolsName
	// ToolsName is ToolsDir's name in the share. No container has one that begins with a dot.
	ToolsName = ".tools"
	// ImagesProgram is the one of ToolsDir that serves the requests about images: one request on its standard input, the responses on its
	// standard output, both with a length in front; it ends with the last one. SIGTERM cancels.
	ImagesProgram = ToolsDir + "/limpet-images"
	// BusyboxProgram is the one of ToolsDir that is many: what a command in the machine itself names and is not found otherwise.
	BusyboxProgram = ToolsDir + "/busybox"
	// ImagesDir is where images are kept, in memory or on the storage disk, and OverlaysDir where each workload's overlay is.
	ImagesDir   = "/var/lib/limpet"
	OverlaysDir = ImagesDir + "/overlays"
)

// StorageSerial is the serial number of the disk that the guest may keep images on.
const StorageSerial = "storage"

// ParkParameter is the kernel parameter of a machine that is to become a template: the agent stops it before it has an identity.
const ParkParameter = "limpet.park"
