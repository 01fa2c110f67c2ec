package pool

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// maxPacket bounds a packet. The environment is the largest part of a request; what does not fit into a socket's buffer is not sent.
const maxPacket = 128 << 10

// Request is what a spare is to become: what a server of the asker's own would have been started with.
type Request struct {
	Namespace   string          `json:"namespace"`
	ID          string          `json:"id"`
	Bundle      string          `json:"bundle"`  // absolute path
	Address     string          `json:"address"` // of containerd's gRPC socket
	Socket      string          `json:"socket"`  // path of the socket that comes with the request
	Debug       bool            `json:"debug"`
	Stages      json.RawMessage `json:"stages"` // what was done before, for the sandbox's trace
	Environment []string        `json:"environment"`
	Config      string          `json:"config"` // the digest of the asker's configuration
}

// check tells what is missing in a request.
func (r Request) check() error {
	for _, part := range []struct{ name, value string }{
		{"namespace", r.Namespace}, {"id", r.ID}, {"bundle", r.Bundle}, {"socket", r.Socket},
	} {
		if part.value == "" {
			return fmt.Errorf("the request has no %s: %w", part.name, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// word is every other packet.
type word struct {
	Go      bool   `json:"go,omitempty"`      // the asker's
	Ready   bool   `json:"ready,omitempty"`   // the spare's, as the rest
	Taken   bool   `json:"taken,omitempty"`   // it serves the socket now
	Refused string `json:"refused,omitempty"` // why
}

// link is one end of the conversation.
type link struct{ *net.UnixConn }

// send sends a packet, with a file if there is one, and gives up after the limit.
func (l link) send(limit time.Duration, packet any, file *os.File) error {
	text, err := json.Marshal(packet)
	if err != nil {
		return err
	}
	if len(text) > maxPacket {
		return fmt.Errorf("a packet of %d bytes, at most %d are sent: %w", len(text), maxPacket, errdefs.ErrInvalidArgument)
	}
	var rights []byte
	if file != nil {
		rights = unix.UnixRights(int(file.Fd()))
	}
	if err := l.SetWriteDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	_, _, err = l.WriteMsgUnix(text, rights, nil)
	return err
}

// receive reads a packet, with the file that has come with it, or nil, which is the caller's. It gives up after the limit.
func (l link) receive(limit time.Duration, packet any) (*os.File, error) {
	if err := l.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return nil, err
	}
	text, rights := make([]byte, maxPacket+1), make([]byte, unix.CmsgSpace(4))
	n, rightsLength, flags, _, err := l.ReadMsgUnix(text, rights)
	if err != nil {
		return nil, err
	}
	file, err := fileOf(rights[:rightsLength])
	if err != nil {
		return nil, err
	}
	switch {
	case n == 0:
		err = net.ErrClosed
	case n > maxPacket || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		err = errors.New("a packet that is too large")
	default:
		err = json.Unmarshal(text[:n], packet)
	}
	if err != nil && file != nil {
		file.Close()
	}
	return file, err
}

// fileOf takes the file out of a packet's control message.
func fileOf(rights []byte) (*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) == 0 {
		return nil, err
	}
	descriptors, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(descriptors) == 0 {
		return nil, err
	}
	unix.CloseOnExec(descriptors[0])
	return os.NewFile(uintptr(descriptors[0]), "socket"), nil
}

// peer is the process that connected, or that listened.
func (l link) peer() (credentials *unix.Ucred, err error) {
	raw, err := l.SyscallConn()
	if err != nil {
		return nil, err
	}
	if controlErr := raw.Control(func(fd uintptr) {
		credentials, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); controlErr != nil {
		return nil, controlErr
	}
	if err == nil && int(credentials.Uid) != os.Geteuid() {
		err = fmt.Errorf("the other side is user %d: %w", credentials.Uid, errdefs.ErrPermissionDenied)
	}
	return credentials, err
}

// checkListens makes sure that a file is a listening unix socket.
func checkListens(file *os.File) error {
	if file == nil {
		return fmt.Errorf("no socket came with the request: %w", errdefs.ErrInvalidArgument)
	}
	listens, err := unix.GetsockoptInt(int(file.Fd()), unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil || listens == 0 {
		return fmt.Errorf("what came with the request is no listening socket: %w", errors.Join(err, errdefs.ErrInvalidArgument))
	}
	address, err := unix.Getsockname(int(file.Fd()))
	if _, local := address.(*unix.SockaddrUnix); err != nil || !local {
		return fmt.Errorf("what came with the request is no unix socket: %w", errors.Join(err, syscall.EAFNOSUPPORT))
	}
	return nil
}
