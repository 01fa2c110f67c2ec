package protocol

// AgentRequest is one thing asked of the machine itself. Its JSON carries the request's name under the key "method".
type AgentRequest interface{ agentRequest() }

// PingRequest asks for a PongResponse.
type PingRequest struct{}

// PullRequest fetches an image from its registry.
type PullRequest struct {
	Image       string        `json:"image"`
	OCIPlatform *string       `json:"oci_platform" wire:"option"` // "os/arch"; absent: the guest's own
	Auth        *RegistryAuth `json:"auth,omitzero" wire:"option"`
}

// RegistryAuth is what a registry asks for.
type RegistryAuth struct {
	Username string `json:"username"`
	Password Secret `json:"password"`
}

// QueryRequest asks for an image's ImageInfo.
type QueryRequest struct {
	Image string `json:"image"`
}

// ListImagesRequest asks for the ImageInfo of every image.
type ListImagesRequest struct{}

// GarbageCollectRequest removes what no image needs.
type GarbageCollectRequest struct {
	DryRun   bool `json:"dry_run"`
	PurgeAll bool `json:"purge_all" wire:"default"`
}

// PrepareOverlayRequest makes a writable root file system from an image; answered by an OverlayInfo.
type PrepareOverlayRequest struct {
	Image      string `json:"image"`
	WorkloadID string `json:"workload_id"`
}

// CleanupOverlayRequest undoes a PrepareOverlayRequest.
type CleanupOverlayRequest struct {
	WorkloadID string `json:"workload_id"`
}

// FormatStorageRequest makes a new file system on the storage disk.
type FormatStorageRequest struct{}

// StorageStatusRequest asks for the StorageStatus.
type StorageStatusRequest struct{}

// NetworkTestRequest fetches a URL from inside the guest.
type NetworkTestRequest struct {
	URL string `json:"url"`
}

// ShutdownRequest ends the machine.
type ShutdownRequest struct{}

// ExportLayerRequest asks for a layer of an image as DataChunkResponses.
type ExportLayerRequest struct {
	ImageDigest string `json:"image_digest"`
	LayerIndex  uint64 `json:"layer_index"`
}

// VMExecRequest runs a command in the guest itself, in no container.
type VMExecRequest struct {
	Command     []string `json:"command"`
	Env         []Pair   `json:"env" wire:"default"`
	Workdir     *string  `json:"workdir" wire:"option"`
	TimeoutMS   *uint64  `json:"timeout_ms" wire:"option"`
	Interactive bool     `json:"interactive" wire:"default"`
	TTY         bool     `json:"tty" wire:"default"`
	Background  bool     `json:"background" wire:"default"`
}

// RunRequest runs a command in a container of an image.
type RunRequest struct {
	Image               string   `json:"image"`
	Command             []string `json:"command"`
	Env                 []Pair   `json:"env" wire:"default"`
	Workdir             *string  `json:"workdir" wire:"option"`
	User                *string  `json:"user,omitzero" wire:"option"`
	Mounts              []Share  `json:"mounts" wire:"default"`
	TimeoutMS           *uint64  `json:"timeout_ms" wire:"option"`
	Interactive         bool     `json:"interactive" wire:"default"`
	TTY                 bool     `json:"tty" wire:"default"`
	Detached            bool     `json:"detached" wire:"default"`
	PersistentOverlayID *string  `json:"persistent_overlay_id,omitzero" wire:"option"`
	Background          bool     `json:"background" wire:"default"`
}

// StdinRequest is input for the command that this connection runs; no data: its end.
type StdinRequest struct {
	Data []byte `json:"data"`
}

// ResizeRequest sets the size of the terminal of the command that this connection runs.
type ResizeRequest struct {
	Cols uint16 `json:"cols"`
	Rows uint16 `json:"rows"`
}

// FileWriteRequest writes a file of at most FileChunk bytes.
type FileWriteRequest struct {
	Path string  `json:"path"`
	Data []byte  `json:"data"`
	Mode *uint32 `json:"mode" wire:"option"` // permission bits
}

// FileWriteBeginRequest begins a file that comes in chunks.
type FileWriteBeginRequest struct {
	Path      string  `json:"path"`
	Mode      *uint32 `json:"mode" wire:"option"` // permission bits
	TotalSize uint64  `json:"total_size"`         // bytes
}

// FileWriteChunkRequest carries the next bytes, at most FileChunk, of the file that was begun.
type FileWriteChunkRequest struct {
	Data []byte `json:"data"`
	Done bool   `json:"done"` // the last one
}

// FileReadRequest asks for a file as DataChunkResponses.
type FileReadRequest struct {
	Path string `json:"path"`
}

var agentRequests = map[string]AgentRequest{
	"ping":             PingRequest{},
	"pull":             PullRequest{},
	"query":            QueryRequest{},
	"list_images":      ListImagesRequest{},
	"garbage_collect":  GarbageCollectRequest{},
	"prepare_overlay":  PrepareOverlayRequest{},
	"cleanup_overlay":  CleanupOverlayRequest{},
	"format_storage":   FormatStorageRequest{},
	"storage_status":   StorageStatusRequest{},
	"network_test":     NetworkTestRequest{},
	"shutdown":         ShutdownRequest{},
	"export_layer":     ExportLayerRequest{},
	"vm_exec":          VMExecRequest{},
	"run":              RunRequest{},
	"stdin":            StdinRequest{},
	"resize":           ResizeRequest{},
	"file_write":       FileWriteRequest{},
	"file_write_begin": FileWriteBeginRequest{},
	"file_write_chunk": FileWriteChunkRequest{},
	"file_read":        FileReadRequest{},
}

func (PingRequest) agentRequest()           {}
func (PullRequest) agentRequest()           {}
func (QueryRequest) agentRequest()          {}
func (ListImagesRequest) agentRequest()     {}
func (GarbageCollectRequest) agentRequest() {}
func (PrepareOverlayRequest) agentRequest() {}
func (CleanupOverlayRequest) agentRequest() {}
func (FormatStorageRequest) agentRequest()  {}
func (StorageStatusRequest) agentRequest()  {}
func (NetworkTestRequest) agentRequest()    {}
func (ShutdownRequest) agentRequest()       {}
func (ExportLayerRequest) agentRequest()    {}
func (VMExecRequest) agentRequest()         {}
func (RunRequest) agentRequest()            {}
func (StdinRequest) agentRequest()          {}
func (ResizeRequest) agentRequest()         {}
func (FileWriteRequest) agentRequest()      {}
func (FileWriteBeginRequest) agentRequest() {}
func (FileWriteChunkRequest) agentRequest() {}
func (FileReadRequest) agentRequest()       {}
