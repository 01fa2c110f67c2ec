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

// TestConsoleDoor reads the console, until the machine ends, as two visitors at once.
func TestConsoleDoor(t *testing.T) {
	w := newWorld(t)
	w.fakeMachine.console = "Linux version 6\n"
	sandbox, err := newSandbox(t.Context(), w.options(t), w.platform)
	if err != nil {
		t.Fatal(err)
	}
	var visitors []net.Conn
	for range 2 {
		visitor, err := net.Dial("unix", filepath.Join(sandbox.dir.path, ConsoleDoor))
		if err != nil {
			t.Fatal(err)
		}
		defer visitor.Close()
		said := make([]byte, len(w.fakeMachine.console))
		if _, err := io.ReadFull(visitor, said); string(said) != w.fakeMachine.console {
			t.Errorf("the console says %q, %v", said, err)
		}
		visitors = append(visitors, visitor)
	}
	_ = visitors[0].Close()
	if err := sandbox.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if said, err := io.ReadAll(visitors[1]); len(said) > 0 || err != nil {
		t.Errorf("after the end: %q, %v", said, err)
	}
}
