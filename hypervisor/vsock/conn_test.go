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
	t.Run("dialled by the host", func(t *testing.T) {
		host, daemon := connected(t)
		closeBeforeWriter(t, newDaemonConn(host, func() {}), daemon)
	})
	t.Run("dialled by the guest", func(t *testing.T) {
		dir, err := openSocketDir(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer dir.close()
		listener, err := listenIn(dir, 6001)
		if err != nil {
			t.Fatal(err)
		}
		defer listener.close()
		daemon := dialSocketOf(t, dir.path("vsock_6001"))
		conn, err := listener.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		closeBeforeWriter(t, conn, daemon)
	})
}

// connected are the two ends of a connection.
func connected(t *testing.T) (host *net.UnixConn, daemon net.Conn) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "socket")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	host = dialSocketOf(t, path).(*net.UnixConn)
	daemon, err = listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { daemon.Close() })
	return host, daemon
}

func dialSocketOf(t *testing.T, path string) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func closeBeforeWriter(t *testing.T, conn, daemon net.Conn) {
	t.Helper()
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
}

// TestDaemonListenerPauses accepts no more while as many connections as it takes are open, or closed and not ended by the guest.
func TestDaemonListenerPauses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	unixListener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener := newDaemonListener(unixListener, 1)
	type accepted struct {
		conn net.Conn
		err  error
	}
	next := make(chan accepted)
	accept := func() {
		conn, err := listener.Accept()
		next <- accepted{conn, err}
	}
	first, _ := dialSocketOf(t, path), dialSocketOf(t, path)
	go accept()
	one := <-next
	if one.err != nil {
		t.Fatal(one.err)
	}
	if err := one.conn.Close(); err != nil {
		t.Error(err)
	}
	go accept()
	if _, err := first.Read(make([]byte, 1)); err != io.EOF { // it is closed for the guest
		t.Errorf("the first: %v", err)
	}
	if len(listener.places) != 1 {
		t.Error("there is room although the guest has not ended the first")
	}
	select {
	case <-next:
		t.Error("the second is accepted")
	default:
	}
	first.Close()
	two := <-next
	if two.err != nil {
		t.Fatal(two.err)
	}
	defer two.conn.Close()
	go accept()
	if err := listener.Close(); err != nil {
		t.Error(err)
	}
	if three := <-next; !errors.Is(three.err, net.ErrClosed) {
		t.Errorf("accept after the close: %v", three.err)
	}
}
