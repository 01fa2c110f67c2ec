package rootfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPlace makes places to mount on, in a root whose links would lead elsewhere if they were not followed as in the container.
func TestPlace(t *testing.T) {
	outside := t.TempDir()
	dir := filepath.Join(outside, "root")
	for _, made := range []string{"there/deep", "loop"} {
		if err := os.MkdirAll(filepath.Join(dir, made), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{
		"out": "/../../../escaped", "up": "../../../../escaped2", "dangling": "there/new/file", "loop/a": "b", "loop/b": "a", "in": "/there/deep",
		"host": outside,
	} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	root := &Root{fd: fd}
	for _, c := range []struct {
		name string
		dir  bool
		want string // below the root
		made bool
		err  error
	}{
		{"there/deep", true, "there/deep", false, nil}, {"file", true, "file", false, nil}, {"new/a/b", true, "new/a/b", true, nil},
		{"etc/file", false, "etc/file", true, nil}, {"out", true, "escaped", true, nil}, {"up/x", true, "escaped2/x", true, nil},
		{"dangling", false, "there/new/file", true, nil}, {"in/x", false, "there/deep/x", true, nil},
		{"there/../there2/./x", true, "there2/x", true, nil},
		{"loop/a", true, "", false, unix.ELOOP}, {"loop/a/b", true, "", false, unix.ELOOP}, {"file/x", true, "", false, unix.ENOTDIR},
		{"../../above", true, "above", true, nil}, {"host/x", true, outside[1:] + "/x", true, nil}, {"", true, "", false, nil},
	} {
		at, made, err := root.place(c.name, c.dir)
		if !errors.Is(err, c.err) || c.err == nil && err != nil {
			t.Errorf("%s: %v, want %v", c.name, err, c.err)
		}
		if err != nil {
			continue
		}
		var got, want unix.Stat_t
		if err := errors.Join(unix.Fstat(at, &got), unix.Stat(filepath.Join(dir, c.want), &want), unix.Close(at)); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if got.Ino != want.Ino || got.Dev != want.Dev || made != c.made || made && (got.Mode&unix.S_IFMT == unix.S_IFDIR) != c.dir {
			t.Errorf("%s: mode %o, made %v, or not %s", c.name, got.Mode, made, c.want)
		}
	}
	entries, err := os.ReadDir(outside)
	if err != nil || len(entries) != 1 {
		t.Errorf("beside the root: %v, %v", entries, err)
	}
	if _, err := os.Stat("/escaped"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
