package integration

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/integration/harness"
)

// streamDoor is the sandbox's socket for byte streams.
func (c container) streamDoor() string {
	c.Helper()
	doors, err := filepath.Glob(filepath.Join(daemon.StateDir(), "*", "stream.sock"))
	c.must(err)
	if len(doors) != 1 {
		c.Fatalf("%d doors, want one: %q", len(doors), doors)
	}
	return doors[0]
}

// stream opens a byte stream with a client that is not limpet's, sends it a text and its end, and returns what comes back.
func (s *scope) stream(address, text string, arguments ...string) harness.Result {
	cmd := exec.CommandContext(s.ctx, "python3", append([]string{"streams.py", "open", address}, arguments...)...)
	cmd.Stdin = strings.NewReader(text)
	return harness.Run(cmd)
}

// TestStreamDoor reaches what listens in a container, from the sandbox's socket on the host.
func TestStreamDoor(t *testing.T) {
	s := limpetOnly(t)
	c := s.sleeper()
	l := localhost{container: c}
	l.serve(8080, "nc -ll -p 8080 -e sha256sum") // it answers once it has everything
	door := c.streamDoor()
	text := strings.Repeat("what goes over it ", 1<<16)
	answer := s.stream(door, text, "0x41", "8080")
	if want := fmt.Sprintf("%x  -\n", sha256.Sum256([]byte(text))); answer.Stdout != want {
		t.Errorf("port 8080 answered %q, %v; want %q", answer.Stdout, answer.Err(), want)
	}
	for _, nobody := range [][]string{{"0x41", "8081"}, {"0x42", "/none"}} {
		if refused := s.stream(door, "", nobody...); refused.Code == 0 || !strings.HasPrefix(refused.Stderr, "refused: ") {
			t.Errorf("%q: %+v", nobody, refused)
		}
	}
	listeners, err := net.Dial("unix", door)
	s.must(err)
	defer listeners.Close()
	s.must(listeners.SetDeadline(time.Now().Add(testTimeout / 2)))
	_, err = io.WriteString(listeners, "danger noodle\x43")
	s.must(err)
	list := make([]byte, 6) // a status, how many, the port, whether it is on loopback alone
	if _, err := io.ReadFull(listeners, list); string(list) != "\x00\x00\x01\x1f\x90\x00" || err != nil {
		t.Errorf("the listeners are %x, %v", list, err)
	}
	if none := s.stream(door, "", "0"); none.Stdout != "" || none.Err() != nil {
		t.Errorf("without a containerd in the guest: %q, %v", none.Stdout, none.Err())
	}
	s.wantHungUp("unix", door)
}

// wantHungUp says what is no byte stream, and wants it to be closed without one byte.
func (s *scope) wantHungUp(network, address string) {
	s.Helper()
	for _, text := range []string{"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "danger noodle\x06", "danger noodle\xff", "Danger noodle\x00"} {
		conn, err := net.Dial(network, address)
		s.must(err)
		defer conn.Close()
		s.must(conn.SetDeadline(time.Now().Add(testTimeout / 2)))
		_, err = io.WriteString(conn, text)
		s.must(err)
		if n, err := conn.Read(make([]byte, 1)); n != 0 || err != io.EOF && !errors.Is(err, unix.ECONNRESET) {
			s.Errorf("%q was answered by %d bytes, %v", text, n, err)
		}
	}
}
