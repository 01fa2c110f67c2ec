package images

import (
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

// newDisk is a block device of that many bytes, which goes with the test.
func newDisk(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	device, err := mount.AttachLoopDevice(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mount.DetachLoopDevice(device); err != nil {
			t.Error(err)
		}
	})
	return device
}

// TestStorage formats a disk, keeps images there and finds them again.
func TestStorage(t *testing.T) {
	memory := newTestStore(t, 16<<20)
	mkfs, err := exec.LookPath("mke2fs")
	if err != nil {
		t.Fatal(err)
	}
	disk := newDisk(t, 64<<20)
	options := Options{
		Root: filepath.Join(memory.Root, "store"), Share: memory.Share, Mkfs: mkfs, Logger: slog.New(slog.DiscardHandler),
		FindDisk: func(serial string) (string, error) {
			if serial != protocol.StorageSerial {
				return "", errdefs.ErrNotFound
			}
			return disk, nil
		},
	}
	t.Cleanup(func() {
		if err := unix.Unmount(options.Root, 0); err != nil {
			t.Error(err)
		}
	})
	open := func() *Store {
		t.Helper()
		s, err := Open(options)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	want := func(s *Store, ready bool, images int) {
		t.Helper()
		status, err := s.Status()
		if err != nil || status.Ready != ready || status.ImageCount != uint64(images) || ready != (status.TotalBytes > 32<<20) {
			t.Errorf("status is %+v, %v", status, err)
		}
	}
	host := testRegistry(t, nil)
	image := push(t, host, "image", imageOf(t, archiveOf(t, regular("a", "1"))))

	s := open()
	if _, _, err := s.pullForTest(t, image); err != nil {
		t.Fatal(err)
	}
	want(s, false, 1)
	mustPrepare(t, s, image, "w")
	if err := s.Format(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("with an overlay: %v", err)
	}
	if err := s.CleanupOverlay("w"); err != nil {
		t.Fatal(err)
	}
	if err := s.Format(t.Context()); err != nil {
		t.Fatal(err)
	}
	want(s, true, 0)
	if _, _, err := s.pullForTest(t, image); err != nil {
		t.Fatal(err)
	}
	if got := look(mustPrepare(t, s, image, "w"), "a"); got != "1" {
		t.Errorf("a is %s", got)
	}
	if err := unix.Unmount(filepath.Join(s.overlayPath("w"), rootfsName), 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(options.Root, 0); err != nil { // another machine with the same disk
		t.Fatal(err)
	}
	s = open()
	want(s, true, 1)
	if got := look(mustPrepare(t, s, image, "w"), "a"); got != "1" {
		t.Errorf("later a is %s", got)
	}
	if err := s.CleanupOverlay("w"); err != nil {
		t.Fatal(err)
	}
	if err := s.Format(t.Context()); err != nil {
		t.Fatal(err)
	}
	want(s, true, 0)
	options.Mkfs = "/bin/false"
	if err := open().Format(t.Context()); err == nil {
		t.Error("formatted by a program that fails")
	}
	want(open(), true, 0) // what could not be formatted is as it was
}
