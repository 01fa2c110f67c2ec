package sshagent

import (
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

const testTimeout = 10 * time.Second

// testToken is what the host wants to be told first.
var testToken = protocol.Token{1, 2, 3}

// newServer serves containers whose root directories are below the one that it returns; each has a /dev in memory. The host answers a
// request with the port and the request.
func newServer(t *testing.T, containers ...string) (*Server, string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
	roots := t.TempDir()
	for _, name := range containers {
		dev := filepath.Join(roots, name, "dev")
		if err := os.MkdirAll(dev, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", dev, "tmpfs", 0, "size=64k"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(dev, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	}
	root := func(name string) (*os.File, error) { return os.Open(filepath.Join(roots, name)) }
	s := New(root, dialFake, slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		for _, name := range containers {
			s.Forget(name)
		}
	})
	return s, roots
}

func dialFake(_ context.Context, port uint32, token protocol.Token) (net.Conn, error) {
	if token != testToken {
		return nil, errdefs.ErrUnauthenticated
	}
	guest, host := net.Pipe()
	go func() {
		defer host.Close()
		for {
			request, err := read(host)
			if err != nil || write(host, append([]byte{byte(port)}, request...)) != nil {
				return
			}
		}
	}()
	return guest, nil
}

func write(conn net.Conn, message []byte) error {
	_, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(message))), message...))
	return err
}

func read(conn net.Conn) ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, err
	}
	message := make([]byte, binary.BigEndian.Uint32(length[:]))
	_, err := io.ReadFull(conn, message)
	return message, err
}

func connect(t *testing.T, roots, name string) (net.Conn, error) {
	t.Helper()
	conn, err := net.Dial("unix", filepath.Join(roots, name, protocol.SSHAgentSocket))
	if err == nil {
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(testTimeout))
	}
	return conn, err
}

func TestOffer(t *testing.T) {
	s, roots := newServer(t, "c1", "c2")
	for _, m := range []protocol.SSHAgent{
		{ContainerID: "c1", Port: 7, Token: testToken}, {ContainerID: "c2", Port: 7, Token: testToken},
		{ContainerID: "c1", Port: 8, Token: testToken},
	} {
		if err := s.Offer(m); err != nil {
			t.Fatal(err)
		}
	}
	for name, port := range map[string]byte{"c1": 8, "c2": 7} {
		conn, err := connect(t, roots, name)
		if err != nil {
			t.Fatal(err)
		}
		for _, request := range []string{"list", "sign"} {
			if err := write(conn, []byte(request)); err != nil {
				t.Fatal(err)
			}
			if answer, err := read(conn); err != nil || string(answer) != string(port)+request {
				t.Errorf("%s: %q, %v", name, answer, err)
			}
		}
	}
	info, err := os.Lstat(filepath.Join(roots, "c1", protocol.SSHAgentSocket))
	if err != nil || info.Mode() != os.ModeSocket|socketMode {
		t.Errorf("the socket: %v, %v", info, err)
	}
	open, err := connect(t, roots, "c1")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Offer(protocol.SSHAgent{ContainerID: "c1"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := open.Read(make([]byte, 1)); err == nil {
		t.Error("a client outlives the socket")
	}
	if _, err := os.Lstat(filepath.Join(roots, "c1", protocol.SSHAgentSocket)); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
	s.Forget("c2")
	if _, err := connect(t, roots, "c2"); err == nil {
		t.Error("a container that is gone has clients")
	}
}

// TestOfferStaysInside follows no link out of the container, and makes nothing on the disk of one that does not run.
func TestOfferStaysInside(t *testing.T) {
	s, roots := newServer(t, "c1")
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(roots, "c1", protocol.SSHAgentSocket)); err != nil {
		t.Fatal(err)
	}
	if err := s.Offer(protocol.SSHAgent{ContainerID: "c1", Port: 7, Token: testToken}); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(outside); err != nil || info.Mode() != 0o600 {
		t.Errorf("what the link leads to: %v, %v", info, err)
	}
	if err := os.MkdirAll(filepath.Join(roots, "still", "dev"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.Offer(protocol.SSHAgent{ContainerID: "still", Port: 7, Token: testToken}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a container that does not run: %v", err)
	}
	if err := s.Offer(protocol.SSHAgent{ContainerID: "none", Port: 7, Token: testToken}); err == nil {
		t.Error("a container that is not there")
	}
}
