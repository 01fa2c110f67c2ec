package requests

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

func TestParsePath(t *testing.T) {
	for name, want := range map[string]place{
		"/etc/hosts":    {below: "etc/hosts"},
		"//etc/./hosts": {below: "etc/hosts"},
		"/run/limpet/containers/c1/rootfs/etc/hosts": {container: "c1", below: "etc/hosts"},
		"/run/limpet/containers/c1/rootfs/.x":        {container: "c1", below: ".x"},
		"/...":                                       {below: "..."},
	} {
		want.path = name
		if got, err := parsePath(name); got != want || err != nil {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, want)
		}
	}
	for _, name := range []string{
		"", "/", "etc/hosts", "/etc/", "/etc/.", "/etc/../hosts", "/..", "/a\x00b", "/" + strings.Repeat("a", maxPath),
		"/run/limpet/containers/c1", "/run/limpet/containers/c1/config.json", "/run/limpet/containers/c1/rootfs",
		"/run/limpet/containers/c1/rootfs/..",
	} {
		if got, err := parsePath(name); err == nil {
			t.Errorf("%q: %+v", name, got)
		}
	}
}

// FuzzParsePath never leads above a root.
func FuzzParsePath(f *testing.F) {
	f.Add("/etc/hosts")
	f.Add("/run/limpet/containers/c1/rootfs/../x")
	f.Fuzz(func(t *testing.T, name string) {
		p, err := parsePath(name)
		if err != nil {
			return
		}
		if p.below == "" || p.below[0] == '/' || strings.Contains("/"+p.below+"/", "/../") || strings.ContainsRune(p.container, '/') {
			t.Errorf("%q leads to %+v", name, p)
		}
	})
}

// wantOK wants a request to be done.
func wantOK(t *testing.T, answer protocol.AgentResponse) {
	t.Helper()
	if _, ok := answer.(protocol.OKResponse); !ok {
		t.Errorf("answer %s, want ok", show(answer))
	}
}

// wantFiles wants a directory to have files of these names and no others: no staging file is left.
func wantFiles(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, entry := range entries {
		got = append(got, entry.Name())
	}
	if fmt.Sprint(got) != fmt.Sprint(names) {
		t.Errorf("%s has %q, want %q", dir, got, names)
	}
}

func TestWriteFile(t *testing.T) {
	c, dir := newGuest(t).dial(), t.TempDir()
	path := filepath.Join(dir, "file")
	wantOK(t, c.send(protocol.FileWriteRequest{Path: path, Data: []byte("one")}))
	wantOK(t, c.send(protocol.FileWriteRequest{Path: path, Data: []byte("other"), Mode: new(uint32(0o4750))}))
	content, err := os.ReadFile(path)
	if info, statErr := os.Stat(path); string(content) != "other" || err != nil || statErr != nil || info.Mode() != os.ModeSetuid|0o750 {
		t.Errorf("file %q, %v; %v", content, err, info.Mode())
	}
	wantFiles(t, dir, "file")
	wantError(t, c.send(protocol.FileWriteRequest{Path: path, Data: make([]byte, protocol.FileChunk+1)}), protocol.CodeInvalidRequest)
	wantError(t, c.send(protocol.FileWriteRequest{Path: path, Mode: new(uint32(0o10000))}), protocol.CodeInvalidRequest)
}

// TestTransfer writes a file in chunks and reads it back.
func TestTransfer(t *testing.T) {
	c, dir := newGuest(t).dial(), t.TempDir()
	for _, size := range []int{0, 1, readChunk - 1, readChunk, readChunk + 1, 3*protocol.FileChunk + 17} {
		content := make([]byte, size)
		_, _ = rand.Read(content)
		path := filepath.Join(dir, "file")
		wantOK(t, c.send(protocol.FileWriteBeginRequest{Path: path, TotalSize: uint64(size), Mode: new(uint32(0o600))}))
		for rest := content; ; {
			n := min(len(rest), protocol.FileChunk)
			done := n == len(rest)
			wantOK(t, c.send(protocol.FileWriteChunkRequest{Data: rest[:n], Done: done}))
			if rest = rest[n:]; done {
				break
			}
		}
		wantFiles(t, dir, "file")
		var got bytes.Buffer
		for answer := c.send(protocol.FileReadRequest{Path: path}); ; answer = c.hear() {
			chunk, ok := answer.(protocol.DataChunkResponse)
			if !ok {
				t.Fatalf("read: %s", show(answer))
			}
			got.Write(chunk.Data)
			if chunk.Done {
				break
			}
		}
		if sha256.Sum256(got.Bytes()) != sha256.Sum256(content) {
			t.Errorf("%d bytes written, %d others read", size, got.Len())
		}
	}
}

// TestUploadThatLies leaves no file, and the connection lives.
func TestUploadThatLies(t *testing.T) {
	c, dir := newGuest(t).dial(), t.TempDir()
	begin := func(size uint64) {
		t.Helper()
		wantOK(t, c.send(protocol.FileWriteBeginRequest{Path: filepath.Join(dir, "file"), TotalSize: size}))
	}
	chunk := func(size int, done bool) protocol.AgentResponse {
		return c.send(protocol.FileWriteChunkRequest{Data: make([]byte, size), Done: done})
	}
	begin(10)
	wantError(t, chunk(9, true), protocol.CodeInvalidRequest) // too short
	wantFiles(t, dir)
	begin(10)
	wantError(t, chunk(11, false), protocol.CodeInvalidRequest) // too long
	wantError(t, chunk(1, true), protocol.CodeInvalidRequest)   // of no upload
	begin(2 * protocol.FileChunk)
	wantError(t, chunk(protocol.FileChunk+1, false), protocol.CodeInvalidRequest) // too much at once
	wantFiles(t, dir)
	begin(10)
	wantOK(t, chunk(5, false))
	begin(10) // begins anew
	wantOK(t, chunk(10, true))
	wantFiles(t, dir, "file")
	begin(20)
	if _, ok := c.ask(ping).(protocol.PongResponse); !ok {
		t.Error("the connection does not live")
	}
	wantError(t, chunk(20, true), protocol.CodeInvalidRequest) // another request came between
	wantFiles(t, dir, "file")
	wantError(t, c.send(protocol.FileWriteBeginRequest{Path: filepath.Join(dir, "file"), TotalSize: protocol.MaxFile + 1}),
		protocol.CodeInvalidRequest)
}

// TestUploadCutOff leaves no staging file.
func TestUploadCutOff(t *testing.T) {
	g, dir := newGuest(t), t.TempDir()
	c := g.dial()
	wantOK(t, c.send(protocol.FileWriteBeginRequest{Path: filepath.Join(dir, "file"), TotalSize: 10}))
	wantOK(t, c.send(protocol.FileWriteChunkRequest{Data: []byte("half")}))
	c.Close()
	g.await("the staging file is removed", func() bool {
		entries, err := os.ReadDir(dir)
		return err == nil && len(entries) == 0
	})
}

// TestNoFile is about what can be neither written nor read.
func TestNoFile(t *testing.T) {
	c, dir := newGuest(t).dial(), t.TempDir()
	for name, make := range map[string]func(path string) error{
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"link":      func(path string) error { return os.Symlink("/etc/passwd", path) },
		"fifo":      func(path string) error { return unix.Mkfifo(path, 0o600) },
		"device":    func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) },
		"socket":    func(path string) error { return unix.Mknod(path, unix.S_IFSOCK|0o600, 0) },
	} {
		path := filepath.Join(dir, name)
		if err := make(path); err != nil {
			t.Fatal(err)
		}
		wantError(t, c.send(protocol.FileReadRequest{Path: path}), protocol.CodeFileIOFailed)
		wantError(t, c.send(protocol.FileWriteRequest{Path: path, Data: []byte("x")}), protocol.CodeFileIOFailed)
	}
	if err := os.Symlink("/etc", filepath.Join(dir, "etc")); err != nil {
		t.Fatal(err)
	}
	for path, code := range map[string]protocol.Code{
		filepath.Join(dir, "etc/passwd"):             protocol.CodeFileIOFailed,
		filepath.Join(dir, "directory") + "/../link": protocol.CodeInvalidRequest,
		filepath.Join(dir, "none/file"):              protocol.CodeNotFound,
		filepath.Join(dir, "fifo/file"):              protocol.CodeFileIOFailed,
		"relative":                                   protocol.CodeInvalidRequest,
		protocol.ContainersDir + "/none/rootfs/a":    protocol.CodeNotFound,
		protocol.ContainersDir + "/none/config.json": protocol.CodeInvalidRequest,
	} {
		wantError(t, c.send(protocol.FileReadRequest{Path: path}), code)
		wantError(t, c.send(protocol.FileWriteRequest{Path: path, Data: []byte("x")}), code)
	}
	wantError(t, c.send(protocol.FileReadRequest{Path: filepath.Join(dir, "none")}), protocol.CodeNotFound)
	wantFiles(t, dir, "device", "directory", "etc", "fifo", "link", "socket")
}

// TestFullDisk leaves nothing of a file that does not fit.
func TestFullDisk(t *testing.T) {
	c, dir := newGuest(t).dial(), t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
	wantError(t, c.send(protocol.FileWriteRequest{Path: filepath.Join(dir, "file"), Data: make([]byte, 100<<10)}), protocol.CodeFileIOFailed)
	wantFiles(t, dir)
	wantOK(t, c.send(protocol.FileWriteRequest{Path: filepath.Join(dir, "file"), Data: make([]byte, 50<<10)}))
}
