package runtime

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"path/filepath"
	"testing"

	"github.com/limpet-run/limpet/guest/protocol"
)

// TestDoors reaches a sandbox by its doors, until its machine has ended.
func TestDoors(t *testing.T) {
	w := newTestSandbox(t)
	path := filepath.Join(w.dir.path, AgentDoor)
	visitor, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer visitor.Close()
	if said, err := io.ReadAll(visitor); string(said) != "socket "+protocol.RequestSocket || err != nil {
		t.Errorf("behind the door: %q, %v", said, err)
	}
	stream, err := net.Dial("unix", filepath.Join(w.dir.path, StreamDoor))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if err := protocol.WritePreamble(stream, protocol.Preamble{Kind: protocol.StreamTCP, Port: 80}); err != nil {
		t.Fatal(err)
	}
	if err := protocol.ReadStatus(stream); err != nil {
		t.Fatal(err)
	}
	if said, err := io.ReadAll(stream); string(said) != "port 80" || err != nil {
		t.Errorf("behind the door of streams: %q, %v", said, err)
	}
	w.fakeMachine.end(nil)
	for err == nil { // the door hangs up
		_, err = visitor.Write([]byte{0})
	}
	if err := w.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("unix", path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the door after the sandbox's end: %v", err)
	}
}
