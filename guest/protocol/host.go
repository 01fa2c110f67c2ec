package protocol

import "encoding/json"

// HostMessage is one thing that the host says to the agent. Its JSON carries the message's name under the key "type".
type HostMessage interface{ hostMessage() }

// Auth opens a session: the first host to speak sets the token, later sessions must present it.
type Auth struct {
	Token           Secret `json:"token"`
	ProtocolVersion uint32 `json:"protocol_version"`
	// Clock is the host's time in nanoseconds since the Unix epoch; the agent sets its own clock from it. Absent: left alone.
	Clock *int64 `json:"clock,omitzero" wire:"option"`
	// Entropy (at most 64 bytes) is mixed into the guest's random number generator before anything runs.
	Entropy []byte `json:"entropy,omitzero" wire:"default"`
	// Ack is the sequence up to which the host has seen exits and stream ends; what follows it is sent again.
	Ack uint64 `json:"ack,omitzero" wire:"default"`
	// Session names a further session (WorkloadPort), so that it can be gone on with over another connection: 1 to MaxSessionName
	// characters, random, of the host's choice. Absent: it ends with its connection. In the sandbox's own session it says nothing.
	Session string `json:"session,omitzero" wire:"default"`
}

// MaxSessionName is the most bytes of Auth.Session.
const MaxSessionName = 64

// FurtherRequest is the bit that the request id of a process has that a further session starts, and that of no other one, so that they
// do not meet. The rest of it is random.
const FurtherRequest uint64 = 1 << 63

// Run starts the init process of a prepared container.
type Run struct {
	// RequestID names the process for the life of the sandbox: chosen by the host, never 0, never reused. See FurtherRequest.
	RequestID uint64   `json:"request_id"`
	Command   []string `json:"command"`
	Env       []Pair   `json:"env"`
	Workdir   *string  `json:"workdir" wire:"option"`

	ContainerID string          `json:"container_id,omitzero" wire:"default"`
	Spec        json.RawMessage `json:"spec,omitzero" wire:"default"` // OCI configuration, translated for the guest
	Rootfs      string          `json:"rootfs,omitzero" wire:"default"`
	Terminal    bool            `json:"terminal,omitzero" wire:"default"`
	Streams     *Streams        `json:"streams,omitzero" wire:"option"`
	Size        *Size           `json:"size,omitzero" wire:"option"`
}

// Exec starts one more process in a running container.
type Exec struct {
	RequestID uint64   `json:"request_id"`
	Command   []string `json:"command"`
	TTY       bool     `json:"tty"`

	ContainerID string          `json:"container_id,omitzero" wire:"default"`
	Env         []Pair          `json:"env,omitzero" wire:"default"`
	Workdir     *string         `json:"workdir,omitzero" wire:"option"`
	User        *string         `json:"user,omitzero" wire:"option"`
	Process     json.RawMessage `json:"process,omitzero" wire:"default"` // OCI process
	Streams     *Streams        `json:"streams,omitzero" wire:"option"`
	Size        *Size           `json:"size,omitzero" wire:"option"`
}

// Signal sends a signal to a process, a negative one to the process group that it leads; or with All to every process of its container.
type Signal struct {
	RequestID uint64 `json:"request_id"`
	Signal    int32  `json:"signal"`
	All       bool   `json:"all,omitzero" wire:"default"`
}

// Stop ends the machine: processes are ended within the timeout, file systems synced and unmounted.
type Stop struct {
	TimeoutMS uint64 `json:"timeout_ms"`
}

// Prepare makes a container known: its rootfs is mounted and checked before its process is run.
type Prepare struct {
	ContainerID string `json:"container_id"`
	// Rootfs is the path of the container's root directory below the sandbox's file share, or an absolute one below OverlaysDir. The
	// container's directory in the share has a directory MountsDir, which has in it what of the host is mounted in the container.
	Rootfs string `json:"rootfs"`
}

// MountsDir is the name of the directory beside a container's root directory. See Prepare.
const MountsDir = "mounts"

// Remove forgets a container whose processes have ended and undoes what Prepare did.
type Remove struct {
	ContainerID string `json:"container_id"`
}

// Wait asks for the Exit of a process, whoever started it. It is answered with that once the process has ended, without a sequence.
type Wait struct {
	RequestID uint64 `json:"request_id"`
}

// Resize sets the size of a process's terminal.
type Resize struct {
	RequestID uint64 `json:"request_id"`
	Size      Size   `json:"size"`
}

// CloseStdin ends a process's standard input after the bytes already in its stream. Only a terminal needs it: a pipe's
// input ends with its stream.
type CloseStdin struct {
	RequestID uint64 `json:"request_id"`
}

// ListPids asks for the processes of a container.
type ListPids struct {
	ContainerID string `json:"container_id"`
}

// Stats asks for the resource use of a container.
type Stats struct {
	ContainerID string `json:"container_id"`
}

// Pause freezes a container.
type Pause struct {
	ContainerID string `json:"container_id"`
}

// Resume thaws a container.
type Resume struct {
	ContainerID string `json:"container_id"`
}

// Update changes the resource limits of a container that runs or is paused. On error they are as before.
type Update struct {
	ContainerID string          `json:"container_id"`
	Resources   json.RawMessage `json:"resources"` // OCI LinuxResources: all that the container has, also what does not change
}

// Mount makes a volume.
type Mount struct {
	Source string `json:"source"` // of a bind: a directory of another volume, made if it is not there
	Target string `json:"target"` // one name below VolumesDir
	FSType string `json:"fstype"` // "tmpfs" | "bind"
	// Options are "nosuid", "nodev", "noexec" and "size=" (bytes; 0, or none: no limit) of a tmpfs, and "mode=" (octal), "uid=" and "gid="
	// of the directory that is made.
	Options []string `json:"options,omitzero" wire:"default"`
}

// Unmount undoes a Mount.
type Unmount struct {
	Target string `json:"target"`
}

// What Plug can wait for.
const (
	// PlugProcessors are the machine's processors; the amount is how many are to run, at least.
	PlugProcessors = "processors"
	// PlugMemory is the memory that was added to what the machine started with; the amount is in bytes, at least.
	PlugMemory = "memory"
	// PlugDisk is a disk, named by its serial number. The answer is a BlockDevice.
	PlugDisk = "disk"
)

// Plug puts to use what the host plugged, and waits until it can be used.
type Plug struct {
	Device string `json:"device"`
	Amount uint64 `json:"amount,omitzero" wire:"default"` // how much of it there is to be in all
	Serial string `json:"serial,omitzero" wire:"default"` // of a disk
}

// Unplug has the guest let go of the network card with that hardware address, so that the host can take it out.
type Unplug struct {
	MAC string `json:"mac"` // "02:00:00:00:00:01"
}

// SetClock sets the guest's clock to the host's: nanoseconds since the Unix epoch.
type SetClock struct {
	UnixNano int64 `json:"unix_nano"`
}

// Reseed mixes the host's randomness (at most 64 bytes) into the guest's generator.
type Reseed struct {
	Entropy []byte `json:"entropy"`
}

// Cancel gives up a command of the same session that is not answered yet. What it began is undone; its answer is an error of the code
// CANCELLED, or what it came to if it was done by then.
type Cancel struct {
	CallID uint64 `json:"call_id"`
}

// Ack says that the host has seen every exit and stream end up to Sequence; the agent forgets them.
type Ack struct {
	Sequence uint64 `json:"sequence"`
}

// Ping asks the other side for a Pong with equal data. Both sides send it.
type Ping struct {
	Data uint64 `json:"data"`
}

// Bye says that the sender closes the session on purpose.
type Bye struct {
	Reason string `json:"reason,omitzero" wire:"default"`
}

// Data answers a DataRequest: the named thing, or an error.
type Data struct {
	Name    string  `json:"name"`
	Content []byte  `json:"content,omitzero" wire:"default"`
	Error   *string `json:"error,omitzero" wire:"option"`
}

// Streams holds the tokens of the byte streams that a process's standard streams are joined to; absent: no stream.
type Streams struct {
	Stdin  *Token `json:"stdin,omitzero" wire:"option"`
	Stdout *Token `json:"stdout,omitzero" wire:"option"`
	Stderr *Token `json:"stderr,omitzero" wire:"option"`
	// Kept says that the host opens them as StreamKept, so that they outlive their connections; else as StreamProcess. Stdin then is a
	// row of chunks, as in a Duplex, up to the end of input.
	Kept bool `json:"kept,omitzero" wire:"default"`
}

// Size is the size of a terminal in characters.
type Size struct {
	Cols uint16 `json:"cols"`
	Rows uint16 `json:"rows"`
}

var hostMessages = map[string]HostMessage{
	"auth":        Auth{},
	"run":         Run{},
	"exec":        Exec{},
	"signal":      Signal{},
	"wait":        Wait{},
	"stop":        Stop{},
	"prepare":     Prepare{},
	"remove":      Remove{},
	"resize":      Resize{},
	"close_stdin": CloseStdin{},
	"pids":        ListPids{},
	"stats":       Stats{},
	"pause":       Pause{},
	"resume":      Resume{},
	"update":      Update{},
	"network":     Network{},
	"pod":         Pod{},
	"mount":       Mount{},
	"unmount":     Unmount{},
	"plug":        Plug{},
	"unplug":      Unplug{},
	"clock":       SetClock{},
	"reseed":      Reseed{},
	"cancel":      Cancel{},
	"ack":         Ack{},
	"ping":        Ping{},
	"pong":        Pong{},
	"data":        Data{},
	"bye":         Bye{},
	"resolver":    Resolver{},
	"ssh_agent":   SSHAgent{},
}

func (Auth) hostMessage()       {}
func (Run) hostMessage()        {}
func (Exec) hostMessage()       {}
func (Signal) hostMessage()     {}
func (Wait) hostMessage()       {}
func (Stop) hostMessage()       {}
func (Prepare) hostMessage()    {}
func (Remove) hostMessage()     {}
func (Resize) hostMessage()     {}
func (CloseStdin) hostMessage() {}
func (ListPids) hostMessage()   {}
func (Stats) hostMessage()      {}
func (Pause) hostMessage()      {}
func (Resume) hostMessage()     {}
func (Update) hostMessage()     {}
func (Network) hostMessage()    {}
func (Pod) hostMessage()        {}
func (Mount) hostMessage()      {}
func (Unmount) hostMessage()    {}
func (Plug) hostMessage()       {}
func (Unplug) hostMessage()     {}
func (SetClock) hostMessage()   {}
func (Reseed) hostMessage()     {}
func (Cancel) hostMessage()     {}
func (Ack) hostMessage()        {}
func (Ping) hostMessage()       {}
func (Pong) hostMessage()       {}
func (Data) hostMessage()       {}
func (Bye) hostMessage()        {}
func (Resolver) hostMessage()   {}
func (SSHAgent) hostMessage()   {}
