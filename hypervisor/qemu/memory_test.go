package qemu

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/hypervisor"
)

// TestCopy copies between memory and a file and back: the bytes are the same, and holes stay holes.
func TestCopy(t *testing.T) {
	const mebibytes = 8
	source, err := newMemory(mebibytes)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	for _, offset := range []int64{0, 3 << 20, mebibytes<<20 - 5} {
		if _, err := source.WriteAt([]byte("bytes"), offset); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := source.WriteAt(make([]byte, 2<<20), 5<<20-100); err != nil { // pages of zeroes
		t.Fatal(err)
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "memory"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	again, err := newMemory(0)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := errors.Join(copyNonzero(file, source), copySparse(again, file)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(contents(t, source, mebibytes), contents(t, again, mebibytes)) {
		t.Error("the copy differs")
	}
	if size := taken(t, again); size >= 1<<20 {
		t.Errorf("the copy takes %d bytes", size)
	}
}

// TestFreePages has a guest use all its memory and free it: the host has it back, and the guest and what serves it go on.
func TestFreePages(t *testing.T) {
	l := newLab(t)
	l.config.MaxMemoryMiB = 128 + 512
	device := l.vsock()
	share := t.TempDir()
	write(t, filepath.Join(share, "file"), "text")
	m := l.boot()
	l.check(m.Plug(l.ctx, hypervisor.Vsock{ID: "vsock0", Socket: device}))
	l.check(m.Plug(l.ctx, hypervisor.Share{ID: "share0", Tag: "limpet", Dir: share}))
	l.check(m.Resume(l.ctx))
	guest := l.greet(device)
	guest.ask("mount limpet", "ok")
	for _, added := range []int{0, 512} {
		l.check(m.ResizeMemory(l.ctx, added))
		guest.ask(fmt.Sprintf("memory %d", added<<20), "ok")
		guest.ask("zero", "ok")
		began := time.Now()
		for taken(t, m.memory) >= 64<<20 { // the kernel takes its time, and nobody tells when it is done
			select {
			case <-time.After(50 * time.Millisecond):
			case <-l.ctx.Done():
				t.Fatalf("with %d MiB added a guest that uses little takes %d bytes", added, taken(t, m.memory))
			}
		}
		t.Logf("%d bytes after %s", taken(t, m.memory), time.Since(began).Round(time.Millisecond))
		guest.ask("read /share/file", "text")
	}
}

// taken is how many bytes there are of a file.
func taken(t *testing.T, file *os.File) int64 {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		t.Fatal(err)
	}
	return stat.Blocks * 512
}

func contents(t *testing.T, file *os.File, mebibytes int) []byte {
	t.Helper()
	data := make([]byte, mebibytes<<20)
	if _, err := file.ReadAt(data, 0); err != nil {
		t.Fatal(err)
	}
	return data
}
