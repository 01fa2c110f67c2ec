package protocol

import "time"

// GuestMessage is one thing that the agent says to the host. Its JSON carries the message's name under the key "type".
type GuestMessage interface{ guestMessage() }

// Hello is the first thing said on every session that the agent dials: the sign that the guest is up.
type Hello struct {
	AgentVersion    string `json:"agent_version"`
	ProtocolVersion uint32 `json:"protocol_version"`
	// BootID is random, the same for the life of the agent, and shown to the host only. It tells the host that who dials is the
	// agent again, and not a stranger in the guest, to whom the host's Auth would give the token.
	BootID string `json:"boot_id"`
	CID    uint32 `json:"cid"`
	// LastAck is the last sequence that the host acknowledged to this agent.
	LastAck uint64 `json:"last_ack"`
}

// AuthOK says that the token was accepted.
type AuthOK struct{}

// AuthFailed says that the token or the version was not accepted; the connection is closed after it.
type AuthFailed struct{}

// Ready says that commands are served from here on.
type Ready struct{}

// Started says that a process runs.
type Started struct {
	RequestID uint64 `json:"request_id"`
}

// Stdout carries standard output inside a message. limpet codes it, and sends output on byte streams instead.
type Stdout struct {
	RequestID uint64 `json:"request_id"`
	Data      []byte `json:"data"`
	Truncated bool   `json:"truncated"`
}

// Stderr is to standard error what Stdout is to standard output.
type Stderr struct {
	RequestID uint64 `json:"request_id"`
	Data      []byte `json:"data"`
	Truncated bool   `json:"truncated"`
}

// Exit says that a process ended: exactly one for every Started.
type Exit struct {
	RequestID uint64 `json:"request_id"`
	Code      int32  `json:"code"`   // 0..255; 128+n for signal n
	Reason    string `json:"reason"` // "exited" | "signal: N" | "oom" | "killed" | "start failed"

	OOM      bool   `json:"oom,omitzero" wire:"default"`
	ExitedAt int64  `json:"exited_at,omitzero" wire:"default"` // nanoseconds since the Unix epoch, guest's clock
	Sequence uint64 `json:"sequence,omitzero" wire:"default"`  // numbers exits and stream ends, for Ack and replay
}

// StreamEnd says how many bytes a process's output stream carried in all, once its last writer is gone. It comes before the
// process's Exit, unless the reader is too slow for the agent to wait. Not every vsock backend passes a half-close on, so the
// host closes the stream when it has read that many.
type StreamEnd struct {
	RequestID uint64 `json:"request_id"`
	Stream    string `json:"stream"` // "stdout" | "stderr"
	Bytes     uint64 `json:"bytes"`
	Sequence  uint64 `json:"sequence"`
}

// Failure answers a command that failed, or with no request says that something could not be understood.
type Failure struct {
	RequestID *uint64 `json:"request_id" wire:"option"`
	Message   string  `json:"message"`
}

// OK answers a command that has nothing to say but that it was done.
type OK struct{}

// BlockDevice answers Plug of a disk: its numbers in the guest.
type BlockDevice struct {
	Major uint32 `json:"major"`
	Minor uint32 `json:"minor"`
}

// PidList answers ListPids.
type PidList struct {
	Pids []ProcessInfo `json:"pids"`
}

// ProcessInfo is one process of a container, numbered as the guest sees it.
type ProcessInfo struct {
	PID       uint32 `json:"pid"`
	RequestID uint64 `json:"request_id,omitzero" wire:"default"` // 0: not started by the host
}

// Limits of what a StatsReport has. The kernel's longest list, memory.stat, has some 60 counters; a list of devices has those that the
// container did input or output on.
const (
	MaxCounters  = 256
	MaxIODevices = 256
)

// StatsReport answers Stats. A container that has not been started reports zeroes.
type StatsReport struct {
	MemoryCurrent uint64 `json:"memory_current"`  // bytes
	CPUUsageNanos uint64 `json:"cpu_usage_nanos"` // nanoseconds
	PidsCurrent   uint64 `json:"pids_current"`

	// The control group's files of these names (cgroup v2), as they are. A limit is absent if there is none.
	MemoryMax    *uint64   `json:"memory_max,omitzero" wire:"option"`
	MemoryPeak   uint64    `json:"memory_peak,omitzero" wire:"default"`
	MemoryStat   []Counter `json:"memory_stat,omitzero" wire:"default"`
	MemoryEvents []Counter `json:"memory_events,omitzero" wire:"default"`
	CPUStat      []Counter `json:"cpu_stat,omitzero" wire:"default"`
	PidsMax      *uint64   `json:"pids_max,omitzero" wire:"option"`
	IOStat       []IOStat  `json:"io_stat,omitzero" wire:"default"`
}

// Counter is one of the numbers of a control group, in JSON an array of its name and its value.
type Counter struct {
	Name  string
	Value uint64
}

// IOStat is what a container did with one block device.
type IOStat struct {
	Major    uint64    `json:"major"`
	Minor    uint64    `json:"minor"`
	Counters []Counter `json:"counters"`
}

// ProgressInterval is how often the agent tells that a command is still under way.
const ProgressInterval = 2 * time.Second

// Progress tells how far a command is that takes long.
type Progress struct {
	CallID  uint64 `json:"call_id"`
	Message string `json:"message"`
	Percent *uint8 `json:"percent,omitzero" wire:"option"`
}

// Event tells of something that nobody asked for.
type Event struct {
	Kind        string  `json:"kind"` // "oom" | "log"
	ContainerID string  `json:"container_id,omitzero" wire:"default"`
	Message     *string `json:"message,omitzero" wire:"option"`
}

// Pong answers a Ping with its data.
type Pong struct {
	Data uint64 `json:"data"`
}

// DataRequest asks the host for a named thing from its allow-list.
type DataRequest struct {
	Name string `json:"name"`
}

var guestMessages = map[string]GuestMessage{
	"hello":        Hello{},
	"auth_ok":      AuthOK{},
	"auth_failed":  AuthFailed{},
	"ready":        Ready{},
	"started":      Started{},
	"stdout":       Stdout{},
	"stderr":       Stderr{},
	"exit":         Exit{},
	"stream_end":   StreamEnd{},
	"error":        Failure{},
	"ok":           OK{},
	"block_device": BlockDevice{},
	"pid_list":     PidList{},
	"stats_report": StatsReport{},
	"progress":     Progress{},
	"event":        Event{},
	"ping":         Ping{},
	"pong":         Pong{},
	"data_request": DataRequest{},
	"bye":          Bye{},
}

func (Hello) guestMessage()       {}
func (AuthOK) guestMessage()      {}
func (AuthFailed) guestMessage()  {}
func (Ready) guestMessage()       {}
func (Started) guestMessage()     {}
func (Stdout) guestMessage()      {}
func (Stderr) guestMessage()      {}
func (Exit) guestMessage()        {}
func (StreamEnd) guestMessage()   {}
func (Failure) guestMessage()     {}
func (OK) guestMessage()          {}
func (BlockDevice) guestMessage() {}
func (PidList) guestMessage()     {}
func (StatsReport) guestMessage() {}
func (Progress) guestMessage()    {}
func (Event) guestMessage()       {}
func (Ping) guestMessage()        {}
func (Pong) guestMessage()        {}
func (DataRequest) guestMessage() {}
func (Bye) guestMessage()         {}
