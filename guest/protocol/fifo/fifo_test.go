package fifo

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

func openDir(t *testing.T, path string) *os.File {
	t.Helper()
	dir, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// newOutput returns an output and its FIFO's path.
func newOutput(t *testing.T) (*Output, string) {
	t.Helper()
	dir := t.TempDir()
	o, err := New(openDir(t, dir), dir, 0o622)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	path, err := protocol.ReadOutputPath(o)
	if err != nil || filepath.Dir(path) != dir {
		t.Fatalf("%q, %v; want a file in %s", path, err, dir)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != os.ModeNamedPipe|0o622 {
		t.Fatalf("%v, %v; want a FIFO", info, err)
	}
	return o, path
}

// openWriter opens the FIFO as a program does that writes to it.
func openWriter(t *testing.T, path string) *os.File {
	t.Helper()
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

// TestWriters come one after the other and at the same time; the output ends with the last one.
func TestWriters(t *testing.T) {
	o, path := newOutput(t)
	read := make(chan string)
	go func() {
		text, err := io.ReadAll(o)
		if err != nil {
			t.Error(err)
		}
		read <- string(text)
	}()
	first, second := openWriter(t, path), openWriter(t, path)
	for _, writer := range []*os.File{first, second} {
		if _, err := io.WriteString(writer, writer.Name()); err != nil {
			t.Fatal(err)
		}
		select {
		case <-read:
			t.Fatal("it ends while somebody has it open")
		default:
		}
		writer.Close()
	}
	if text := <-read; text != path+path {
		t.Errorf("read %q", text)
	}
}

// TestWriterIsQuick is gone before anybody reads.
func TestWriterIsQuick(t *testing.T) {
	for _, text := range []string{"", "said and gone"} {
		o, path := newOutput(t)
		writer := openWriter(t, path)
		if _, err := io.WriteString(writer, text); err != nil {
			t.Fatal(err)
		}
		writer.Close()
		if got, err := io.ReadAll(o); string(got) != text || err != nil {
			t.Errorf("read %q, %v; want %q", got, err, text)
		}
	}
}

// TestWaits waits for a writer, and for what he has to say.
func TestWaits(t *testing.T) {
	o, path := newOutput(t)
	if err := o.file.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	wantNothing := func(when string) {
		t.Helper()
		if n, err := o.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %d bytes, %v", when, n, err)
		}
	}
	wantNothing("before there is a writer")
	if err := o.file.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	openWriter(t, path)
	wantNothing("before the writer writes")
}

// TestClose ends a read that waits, and leaves nothing.
func TestClose(t *testing.T) {
	for name, end := range map[string]func(*Output) error{"Close": (*Output).Close, "CloseWrite": (*Output).CloseWrite} {
		o, path := newOutput(t)
		writer := openWriter(t, path)
		ended := make(chan error)
		go func() {
			_, err := o.Read(make([]byte, 1))
			ended <- err
		}()
		if err := end(o); err != nil {
			t.Error(name, err)
		}
		if err := <-ended; err == nil || err == io.EOF {
			t.Errorf("%s: a read ends with %v", name, err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the FIFO: %v", name, err)
		}
		if _, err := writer.Write([]byte{0}); !errors.Is(err, unix.EPIPE) {
			t.Errorf("%s: a writer is told %v", name, err)
		}
	}
}

// TestNewFails leaves nothing behind.
func TestNewFails(t *testing.T) {
	dir := t.TempDir()
	if _, err := New(openDir(t, dir), strings.Repeat("x", 250), 0o600); !errdefs.IsInvalidArgument(err) {
		t.Errorf("long path: %v", err)
	}
	if left, err := os.ReadDir(dir); len(left) != 0 || err != nil {
		t.Errorf("left: %v, %v", left, err)
	}
	gone := openDir(t, dir)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := New(gone, dir, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}
