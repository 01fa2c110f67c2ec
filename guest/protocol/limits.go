package protocol

import "time"

// Version is the version of the messages, spoken in Hello and Auth. FrameVersion is the version of the frames around them.
const (
	Version      uint32 = 1
	FrameVersion uint16 = 2
)

// Limits of what one side accepts from the other.
const (
	// MaxPayload is the most bytes in one frame's payload and in one machine request or response.
	MaxPayload = 32 << 20
	// MaxPayloadBeforeAuth is the most bytes in a payload before the session is authenticated: a hello or an auth has a few
	// hundred.
	MaxPayloadBeforeAuth = 4 << 10
	// MaxEntropy is the most bytes of Auth.Entropy and Reseed.Entropy: the guest's generator holds no more than 32, so 64 are
	// plenty.
	MaxEntropy = 64
	// MaxWrite is the most bytes given to one write on a vsock connection. The vhost-device-vsock daemon drops packets of
	// more than about 28 KiB, and the connection then hangs. The guest's kernel puts each packet, with less than 512 bytes
	// of its own, into memory whose size is a power of two: what is left of 16 KiB spares it the clearing of 32.
	MaxWrite = 16<<10 - 512
	// MaxCalls is how many commands the host may have without an answer, and how many answers the agent remembers, so that it
	// does nothing twice that it is asked twice. One burst of a busy pod is some hundred.
	MaxCalls = 1024
	// FileChunk is the most bytes in one file_write or file_write_chunk: their base64 stays far below MaxPayload.
	FileChunk = 1 << 20
	// MaxFile is the most bytes in a file that is uploaded or downloaded by machine requests.
	MaxFile = 4 << 30
)

// Deadlines. They are generous for a guest that is emulated, and short for a person who waits.
const (
	// HandshakeTimeout is from a connection's start to its last handshake message: three small frames, of which the slowest
	// measured, in an emulated guest, took a tenth of a second.
	HandshakeTimeout = 10 * time.Second
	// PingIdle is the silence after which a side asks whether the other is still there.
	PingIdle = 10 * time.Second
	// PingTimeout is how long the answer may take: an emulated guest on a busy host answers within a second.
	PingTimeout = 5 * time.Second
	// WriteTimeout is how long one frame may take to be written. A reader that takes nothing for so long is stuck, and the
	// session is better begun anew.
	WriteTimeout = 10 * time.Second
	// PayloadTimeout is how long a payload may take after its header: MaxPayload at a mebibyte per second.
	PayloadTimeout = 32 * time.Second
	// PreambleTimeout is how long a byte stream's opener may take to say what it wants.
	PreambleTimeout = 10 * time.Second
	// TokenTimeout is how long a token waits for its stream before it dies.
	TokenTimeout = 30 * time.Second
)

// Ports of AF_VSOCK.
const (
	// SessionPortBase plus the guest's CID is the host's port that the guest dials for its session. The CID keeps the guests
	// of one host apart where they all dial the same host kernel.
	SessionPortBase uint32 = 0x4c000000
	WorkloadPort    uint32 = 5000 // guest: workload frames, for further sessions
	LogPort         uint32 = 5001 // guest: log lines as stream frames
	RequestPort     uint32 = 6000 // guest: machine requests
	SSHAgentPort    uint32 = 6001 // host: the user's ssh-agent
	DNSPort         uint32 = 6002 // host: DNS filter
	StreamPort      uint32 = 8000 // guest: byte streams
)

// HostCID is the host's context id, the only one whose connections the guest accepts. See vsock(7).
const HostCID uint32 = 2
