package protocol

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/errdefs"
)

// Resolver has the guest's names resolved by the host: what is asked at port 53 of the guest's loopback is asked at this port of the host's.
// It may be sent again with the same port and token.
//
// The guest opens connections there, as many as it has questions at the same time. Each begins with the token, which no container knows: any
// of them could dial the port. The next byte says how the questions came, ResolverDatagrams or ResolverStream; then questions and answers
// follow each other, one at a time, each with its length before it, as in DNS over TCP.
type Resolver struct {
	Port  uint32 `json:"port"` // of AF_VSOCK
	Token Token  `json:"token"`
}

// SSHAgent makes the socket SSHAgentSocket in a container that runs, whose clients speak with the ssh-agent at this port of the host's; or
// takes it away. The guest opens a connection there for each client, which begins with the token as those for a Resolver. Then requests and
// answers follow each other as the client and the agent write them, one at a time.
type SSHAgent struct {
	ContainerID string `json:"container_id"`
	Port        uint32 `json:"port"` // of AF_VSOCK; 0: there is no ssh-agent any more
	Token       Token  `json:"token"`
}

// SSHAgentSocket is where a container has the socket of the user's ssh-agent: the directory is the container's own in any case, and can be
// written to.
const SSHAgentSocket = "/dev/ssh-agent"

// MaxSSHAgentMessage is the most bytes of a request to an ssh-agent, or of its answer: what OpenSSH's agent takes (AGENT_MAX_LEN of
// authfd.c).
const MaxSSHAgentMessage = 256 << 10

// MaxSSHAgentClients is how many clients of an ssh-agent are served at the same time, of all containers.
const MaxSSHAgentClients = 32

// How questions came to the guest's resolver: it depends on that how long an answer may be.
const (
	ResolverDatagrams byte = 0
	ResolverStream    byte = 1
)

// Limits of the guest's resolver.
const (
	// MaxResolverConns is how many connections of the guest's resolver the host serves at the same time, and so how many questions.
	MaxResolverConns = 64
	// MaxQuestion is the most bytes of a question: one name has at most 255, and what clients add to it some tens.
	MaxQuestion = 4096
	// MaxAnswer is the most bytes of an answer, as its length has 16 bits.
	MaxAnswer = 1<<16 - 1
)

// WriteDNS writes a question or an answer with its length before it.
func WriteDNS(w io.Writer, message []byte) error {
	if len(message) > MaxAnswer {
		return fmt.Errorf("DNS message of %d bytes: at most %d have a length: %w", len(message), MaxAnswer, errdefs.ErrInvalidArgument)
	}
	framed := append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(message)), uint16(len(message))), message...)
	for chunk := range slices.Chunk(framed, MaxWrite) {
		if _, err := w.Write(chunk); err != nil {
			return fmt.Errorf("write DNS message: %w", err)
		}
	}
	return nil
}

// ReadDNS reads a question or an answer of at most so many bytes. io.EOF: there is none.
func ReadDNS(r io.Reader, limit int) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint16(length[:]))
	if size > limit {
		return nil, fmt.Errorf("DNS message of %d bytes: at most %d: %w", size, limit, errdefs.ErrOutOfRange)
	}
	message := make([]byte, size)
	if _, err := io.ReadFull(r, message); err != nil {
		return nil, fmt.Errorf("read DNS message: %w", err)
	}
	return message, nil
}

// CopySSHAgentMessage copies a request to an ssh-agent, or its answer, with the length before it. io.EOF: there is none.
func CopySSHAgentMessage(w io.Writer, r io.Reader) error {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(length[:])
	if size == 0 || size > MaxSSHAgentMessage {
		return fmt.Errorf("ssh-agent message of %d bytes: want 1 to %d: %w", size, MaxSSHAgentMessage, errdefs.ErrOutOfRange)
	}
	message := io.MultiReader(bytes.NewReader(length[:]), io.LimitReader(r, int64(size)))
	buffer := make([]byte, MaxWrite)
	// Without the methods by which connections are copied at once, in writes of any size.
	copied, err := io.CopyBuffer(struct{ io.Writer }{w}, message, buffer)
	if err == nil && copied < int64(len(length))+int64(size) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("ssh-agent message: %w", err)
	}
	return nil
}
