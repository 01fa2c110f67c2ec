package runtime

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/limpet-run/limpet/guest/protocol"
)

// newSSHAgent is an ssh-agent that answers with what it is asked.
func newSSHAgent(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	return path
}

// visitSSHAgent asks at the door. The error is that of the answer.
func (w *world) visitSSHAgent(t *testing.T, request SSHAgentRequest) (net.Conn, error) {
	t.Helper()
	visitor, err := net.Dial("unix", filepath.Join(w.dir.path, SSHAgentDoor))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { visitor.Close() })
	if err := visitor.SetDeadline(time.Now().Add(testTimeout)); err != nil {
		t.Fatal(err)
	}
	if err := json.NewEncoder(visitor).Encode(request); err != nil {
		t.Fatal(err)
	}
	return visitor, protocol.ReadStatus(visitor)
}

// TestSSHAgent lets the container use an agent for as long as the visitor stays.
func TestSSHAgent(t *testing.T) {
	w := newTestSandbox(t)
	container := w.run(t, IO{})
	socket := newSSHAgent(t)
	visitor, err := w.visitSSHAgent(t, SSHAgentRequest{Socket: socket})
	if err != nil {
		t.Fatal(err)
	}
	told := got[protocol.SSHAgent](w.fakeGuest)
	if len(told) != 1 || told[0].ContainerID != container.id || told[0].Port != protocol.SSHAgentPort {
		t.Fatalf("the guest was told %+v", told)
	}
	client, err := w.fakeGuest.dialHost(told[0].Port)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.SetDeadline(time.Now().Add(testTimeout)); err != nil {
		t.Fatal(err)
	}
	stranger, err := w.fakeGuest.dialHost(told[0].Port)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	if err := stranger.SetDeadline(time.Now().Add(testTimeout)); err != nil {
		t.Fatal(err)
	}
	_, _ = stranger.Write(append(make([]byte, len(told[0].Token)), "\x00\x00\x00\x01\x0b"...)) // it may be hung up on already
	if n, err := stranger.Read(make([]byte, 1)); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("who does not know the token is answered: %d bytes, %v", n, err)
	}
	if _, err := client.Write(told[0].Token[:]); err != nil {
		t.Fatal(err)
	}
	for request, want := range map[string]string{
		"\x00\x00\x00\x01\x0b": "\x00\x00\x00\x01\x0b", "\x00\x00\x00\x05\x0dsign": "\x00\x00\x00\x05\x0dsign",
		"\x00\x00\x00\x01\x13": string(sshRefusal), // to remove all keys
	} {
		if _, err := client.Write([]byte(request)); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, len(want))
		if _, err := io.ReadFull(client, answer); err != nil || string(answer) != want {
			t.Errorf("answered %q, %v", answer, err)
		}
	}
	if _, err := w.visitSSHAgent(t, SSHAgentRequest{Socket: socket}); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("a second agent: %v", err)
	}
	visitor.Close()
	if _, err := client.Read(make([]byte, 1)); err == nil {
		t.Error("a client outlives the visit")
	}
	again, err := w.visitSSHAgent(t, SSHAgentRequest{Container: container.id, Socket: socket})
	for err != nil && strings.Contains(err.Error(), "already") { // the first is just being ended
		again, err = w.visitSSHAgent(t, SSHAgentRequest{Container: container.id, Socket: socket})
	}
	if err != nil {
		t.Fatal(err)
	}
	told = got[protocol.SSHAgent](w.fakeGuest)
	if len(told) != 3 || told[1].Port != 0 || told[1].ContainerID != container.id {
		t.Errorf("the guest was told %+v", told)
	}
	if err := w.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := again.Read(make([]byte, 1)); err == nil {
		t.Error("a visit outlives the sandbox")
	}
}

func TestSSHAgentRefuses(t *testing.T) {
	w := newTestSandbox(t)
	if _, err := w.visitSSHAgent(t, SSHAgentRequest{Socket: newSSHAgent(t)}); err == nil ||
		!strings.Contains(err.Error(), "no container runs") {
		t.Errorf("without a container: %v", err)
	}
	w.run(t, IO{})
	for want, request := range map[string]SSHAgentRequest{
		"absolute": {Socket: "agent"}, "no such file": {Socket: filepath.Join(t.TempDir(), "none")},
		"not found": {Socket: newSSHAgent(t), Container: "other"},
	} {
		if _, err := w.visitSSHAgent(t, request); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", request, err)
		}
	}
	if told := got[protocol.SSHAgent](w.fakeGuest); len(told) > 0 {
		t.Errorf("the guest was told %+v", told)
	}
}
