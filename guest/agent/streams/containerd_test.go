package streams

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/limpet-run/limpet/guest/protocol"
)

// newRoot makes a container's root. Where socket is not empty, a server listens there that says the container's name to whoever has said
// everything.
func newRoot(t *testing.T, name, socket string) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), name)
	if err := os.MkdirAll(filepath.Join(root, filepath.Dir(socket)), 0o755); err != nil {
		t.Fatal(err)
	}
	if socket == "" {
		return root
	}
	listener := listen(t, "unix", filepath.Join(root, socket))
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			said, _ := io.ReadAll(conn)
			_, _ = conn.Write(append([]byte(name+" heard "), said...))
			conn.Close()
		}
	}()
	return root
}

// TestContainerd reaches the first of several, whoever else runs, by a link that has to be followed inside the container; early data is
// not lost.
func TestContainerd(t *testing.T) {
	s, connect := serve(t)
	linked := newRoot(t, "b", "/var/run/docker/containerd/containerd.sock")
	if err := os.Symlink("/var/run", filepath.Join(linked, "run")); err != nil {
		t.Fatal(err)
	}
	stale := newRoot(t, "stale", "")
	abandoned, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(stale, "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	abandoned.SetUnlinkOnClose(false)
	abandoned.Close()
	if err := os.MkdirAll(filepath.Join(stale, "run/containerd"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(stale, "s"), filepath.Join(stale, containerdSockets[0])); err != nil {
		t.Fatal(err)
	}
	s.guest.(*fakeGuest).roots = []string{newRoot(t, "a", ""), stale, linked, newRoot(t, "c", "/run/containerd/containerd.sock")}

	duplex, _ := openDuplex(t, connect, protocol.Preamble{Kind: protocol.StreamContainerdDuplex})
	_, err = io.WriteString(duplex, "this")
	if err := errors.Join(err, duplex.CloseWrite()); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(duplex); string(got) != "b heard this" || err != nil {
		t.Errorf("over a duplex: %q, %v", got, err)
	}
	plain := connect()
	_, err = io.WriteString(plain, "danger noodle\x00early")
	if err := errors.Join(err, plain.(*net.UnixConn).CloseWrite()); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(plain); string(got) != "b heard early" || err != nil {
		t.Errorf("as a plain pipe: %q, %v", got, err)
	}
}

// TestNoContainerd is told where there is an answer, and is an end without one byte where there is none.
func TestNoContainerd(t *testing.T) {
	_, connect := serve(t)
	for _, kind := range []protocol.StreamKind{protocol.StreamContainerdDuplex, protocol.StreamOutputDuplex} {
		if err := open(t, connect(), protocol.Preamble{Kind: kind}); !errors.Is(err, protocol.ErrStreamRefused) {
			t.Errorf("kind %#x: %v", kind, err)
		}
	}
	for _, kind := range []protocol.StreamKind{protocol.StreamContainerd, protocol.StreamOutput} {
		conn := connect()
		if err := protocol.WritePreamble(conn, protocol.Preamble{Kind: kind}); err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("kind %#x: %d bytes, %v", kind, n, err)
		}
	}
}

// TestOutput has its FIFO beside the containerd, if there is one, and told by the path that it has there.
func TestOutput(t *testing.T) {
	s, connect := serve(t)
	first, containerd := newRoot(t, "a", ""), newRoot(t, "b", "/run/containerd/containerd.sock")
	for _, test := range []struct {
		place string
		roots []string
	}{{first, []string{first}}, {containerd, []string{first, containerd}}} {
		s.guest.(*fakeGuest).roots = test.roots
		duplex, _ := openDuplex(t, connect, protocol.Preamble{Kind: protocol.StreamOutputDuplex})
		plain := connect()
		if err := protocol.WritePreamble(plain, protocol.Preamble{Kind: protocol.StreamOutput}); err != nil {
			t.Fatal(err)
		}
		for _, stream := range []io.ReadWriter{duplex, plain} {
			path, err := protocol.ReadOutputPath(stream)
			if err != nil || !strings.HasPrefix(path, "/run/limpet/output/") {
				t.Fatalf("%q, %v", path, err)
			}
			if _, err := io.WriteString(stream, "what nobody reads"); err != nil {
				t.Fatal(err)
			}
			fifo, err := os.OpenFile(filepath.Join(test.place, path), os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			_, err = io.WriteString(fifo, "output")
			if err := errors.Join(err, fifo.Close()); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len("output"))
			if _, err := io.ReadFull(stream, got); err != nil || string(got) != "output" {
				t.Errorf("read %q, %v", got, err)
			}
			if n, err := stream.Read(got); n != 0 || err != io.EOF {
				t.Errorf("after the writer: %d, %v", n, err)
			}
		}
		duplex.Close()
		plain.Close()
	}
}

// TestOutputIsAbandoned removes the FIFO of a reader who goes while nothing was written.
func TestOutputIsAbandoned(t *testing.T) {
	s, connect := serve(t)
	root := newRoot(t, "a", "")
	s.guest.(*fakeGuest).roots = []string{root}
	duplex, _ := openDuplex(t, connect, protocol.Preamble{Kind: protocol.StreamOutputDuplex})
	plain := connect()
	if err := protocol.WritePreamble(plain, protocol.Preamble{Kind: protocol.StreamOutput}); err != nil {
		t.Fatal(err)
	}
	for _, stream := range []io.ReadCloser{duplex, plain} {
		path, err := protocol.ReadOutputPath(stream)
		if err != nil {
			t.Fatal(err)
		}
		writer, err := os.OpenFile(filepath.Join(root, path), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		stream.Close()
		for err == nil { // until it is told that nobody reads
			_, err = writer.Write([]byte("x"))
		}
		writer.Close()
	}
	if left, err := os.ReadDir(filepath.Join(root, outputDir)); len(left) != 0 || err != nil {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestMakeDirs stays inside a root whatever links there are.
func TestMakeDirs(t *testing.T) {
	root := t.TempDir()
	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(root, "run")); err != nil {
		t.Fatal(err)
	}
	place, err := os.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer place.Close()
	if dir, err := makeDirs(place, outputDir); err == nil {
		dir.Close()
		t.Error("made a directory behind a link that leads nowhere inside the root")
	}
	if err := os.MkdirAll(filepath.Join(root, outside), 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := makeDirs(place, outputDir)
	if err != nil {
		t.Fatal(err)
	}
	dir.Close()
	if info, err := os.Stat(filepath.Join(root, outside, "limpet/output")); err != nil || info.Mode() != os.ModeDir|outputDirMode {
		t.Errorf("%v, %v", info, err)
	}
	if left, err := os.ReadDir(outside); len(left) != 0 || err != nil {
		t.Errorf("outside: %v, %v", left, err)
	}
}
