package protocol

import "encoding/json"

// AgentResponse is one answer to an AgentRequest. Its JSON carries the answer's name under the key "status".
type AgentResponse interface{ agentResponse() }

// OKResponse says that the request was done; Data is what it asked for.
type OKResponse struct {
	Data json.RawMessage `json:"data,omitzero" wire:"option"`
}

// PongResponse answers a PingRequest with the Version that the agent speaks.
type PongResponse struct {
	Version uint32 `json:"version"`
}

// ProgressResponse tells how far a long request is.
type ProgressResponse struct {
	Message string  `json:"message"`
	Percent *uint8  `json:"percent,omitzero" wire:"option"`
	Layer   *string `json:"layer,omitzero" wire:"option"`
}

// ErrorResponse says that the request failed.
type ErrorResponse struct {
	Message string  `json:"message"`
	Code    *string `json:"code,omitzero" wire:"option"` // one of the Code constants
}

// CompletedResponse is a command's whole result.
type CompletedResponse struct {
	ExitCode int32  `json:"exit_code"` // 128+n for signal n
	Stdout   []byte `json:"stdout"`
	Stderr   []byte `json:"stderr"`
}

// StartedResponse says that an interactive command runs.
type StartedResponse struct{}

// StdoutResponse is output of an interactive command.
type StdoutResponse struct {
	Data []byte `json:"data"`
}

// StderrResponse is error output of an interactive command.
type StderrResponse struct {
	Data []byte `json:"data"`
}

// ExitedResponse says that an interactive command ended.
type ExitedResponse struct {
	ExitCode int32 `json:"exit_code"` // 128+n for signal n
}

// DataChunkResponse carries the next bytes of a file or layer.
type DataChunkResponse struct {
	Data []byte `json:"data"`
	Done bool   `json:"done"` // the last one
}

var agentResponses = map[string]AgentResponse{
	"ok":         OKResponse{},
	"pong":       PongResponse{},
	"progress":   ProgressResponse{},
	"error":      ErrorResponse{},
	"completed":  CompletedResponse{},
	"started":    StartedResponse{},
	"stdout":     StdoutResponse{},
	"stderr":     StderrResponse{},
	"exited":     ExitedResponse{},
	"data_chunk": DataChunkResponse{},
}

func (OKResponse) agentResponse()        {}
func (PongResponse) agentResponse()      {}
func (ProgressResponse) agentResponse()  {}
func (ErrorResponse) agentResponse()     {}
func (CompletedResponse) agentResponse() {}
func (StartedResponse) agentResponse()   {}
func (StdoutResponse) agentResponse()    {}
func (StderrResponse) agentResponse()    {}
func (ExitedResponse) agentResponse()    {}
func (DataChunkResponse) agentResponse() {}

// ImageInfo is an OKResponse's data for a QueryRequest.
type ImageInfo struct {
	Reference    string   `json:"reference"`
	Digest       string   `json:"digest"`
	Size         uint64   `json:"size"` // bytes
	Created      *string  `json:"created" wire:"option"`
	Architecture string   `json:"architecture"`
	OS           string   `json:"os"`
	LayerCount   uint64   `json:"layer_count"`
	Layers       []string `json:"layers"`
	Entrypoint   []string `json:"entrypoint" wire:"default"`
	Cmd          []string `json:"cmd" wire:"default"`
	Env          []string `json:"env" wire:"default"`
	Workdir      *string  `json:"workdir" wire:"option"`
	User         *string  `json:"user" wire:"option"`
}

// OverlayInfo is an OKResponse's data for a PrepareOverlayRequest. The paths are the guest's.
type OverlayInfo struct {
	RootfsPath string `json:"rootfs_path"`
	UpperPath  string `json:"upper_path"`
	WorkPath   string `json:"work_path"`
	// Image is what the overlay is of: it spares who runs it another request.
	Image ImageInfo `json:"image,omitzero" wire:"default"`
}

// StorageStatus is an OKResponse's data for a StorageStatusRequest.
type StorageStatus struct {
	Ready      bool   `json:"ready"`
	TotalBytes uint64 `json:"total_bytes"`
	UsedBytes  uint64 `json:"used_bytes"`
	LayerCount uint64 `json:"layer_count"`
	ImageCount uint64 `json:"image_count"`
}

// GarbageCollected is an OKResponse's data for a GarbageCollectRequest.
type GarbageCollected struct {
	DryRun     bool     `json:"dry_run"`     // nothing was removed
	Images     []string `json:"images"`      // the references of those removed
	Layers     uint64   `json:"layers"`      // how many were removed
	FreedBytes uint64   `json:"freed_bytes"` // what they took
}

// NetworkTestResult is an OKResponse's data for a NetworkTestRequest: the server has answered.
type NetworkTestResult struct {
	URL           string `json:"url"`
	Status        uint16 `json:"status"` // of HTTP
	RemoteAddress string `json:"remote_address"`
	Milliseconds  uint64 `json:"milliseconds"` // from the name's resolution to the answer's first line
}
