package qemu

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCopySparse copies between memory and a file and back: the bytes are the same, and holes stay holes.
func TestCopySparse(t *testing.T) {
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
	for _, step := range []struct{ target, source *os.File }{{file, source}, {again, file}} {
		if err := copySparse(step.target, step.source); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(contents(t, source, mebibytes), contents(t, again, mebibytes)) {
		t.Error("the copy differs")
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(again.Fd()), &stat); err != nil || stat.Blocks*512 >= 1<<20 {
		t.Errorf("the copy takes %d bytes, %v", stat.Blocks*512, err)
	}
}

func contents(t *testing.T, file *os.File, mebibytes int) []byte {
	t.Helper()
	data := make([]byte, mebibytes<<20)
	if _, err := file.ReadAt(data, 0); err != nil {
		t.Fatal(err)
	}
	return data
}
