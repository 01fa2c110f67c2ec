package vsock

import (
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
)

// TestCloseLosesNoWriter closes a connection that the other side still writes to: that side sees the end, and every write of it succeeds.
func TestCloseLosesNoWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	raw, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	daemon, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn := newDaemonConn(raw.(*net.UnixConn))
	reading := make(chan error, 1)
	go func() {
		_, err := conn.Read(make([]byte, 1))
		reading <- err
	}()
	if err := errors.Join(conn.Close(), conn.Close()); err != nil {
		t.Error(err)
	}
	if err := <-reading; !errors.Is(err, net.ErrClosed) {
		t.Errorf("who reads: %v", err)
	}
	if _, err := conn.Write([]byte{0}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after the close: %v", err)
	}
	if _, err := daemon.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the other side: %v", err)
	}
	if n, err := daemon.Write(make([]byte, 1<<20)); err != nil {
		t.Errorf("the other side wrote %d bytes: %v", n, err)
	}
	daemon.Close()
}
