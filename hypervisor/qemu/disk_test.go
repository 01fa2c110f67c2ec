package qemu

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/hypervisor"
)

// loopDevice makes a block device of the host that begins with the text. It goes with the test.
func (l *lab) loopDevice(text string) string {
	l.Helper()
	image := filepath.Join(l.TempDir(), "disk")
	write(l.T, image, text)
	l.check(os.Truncate(image, 1<<20))
	output, err := exec.Command("losetup", "--find", "--show", image).Output()
	l.check(err)
	device := strings.TrimSpace(string(output))
	l.Cleanup(func() {
		if err := exec.Command("losetup", "--detach", device).Run(); err != nil {
			l.Error(err)
		}
	})
	return device
}

// plugDisk plugs a block device or file of the host.
func (l *lab) plugDisk(m hypervisor.Machine, id, path string, flags int) {
	l.Helper()
	file, err := os.OpenFile(path, flags, 0)
	l.check(err)
	defer file.Close()
	l.check(m.Plug(l.ctx, hypervisor.Disk{ID: id, File: file, ReadOnly: flags == os.O_RDONLY}))
}

// TestDisks plugs and unplugs disks, before the guest runs and while it does.
func TestDisks(t *testing.T) {
	l := newLab(t)
	device := l.vsock()
	first, second := l.loopDevice("first on the host"), l.loopDevice("second on the host")

	m := l.boot()
	l.check(m.Plug(l.ctx, hypervisor.Vsock{ID: "vsock0", Socket: device}))
	l.plugDisk(m, "disk-1", first, os.O_RDWR)
	l.check(m.Resume(l.ctx))
	guest := l.greet(device)
	guest.ask("disk disk-1", "first on")

	l.plugDisk(m, "disk-2", second, os.O_RDONLY)
	guest.ask("disk disk-2", "error: open /disk-2: read-only file system")
	l.check(m.Unplug(l.ctx, "disk-1", nil))
	if text, err := os.ReadFile(first); err != nil || !strings.HasPrefix(string(text), "by guest the host") {
		t.Errorf("the host reads %.20q, %v", text, err)
	}
	plain := filepath.Join(t.TempDir(), "plain")
	write(t, plain, "a file of the host")
	l.check(os.Truncate(plain, 1<<20))
	l.plugDisk(m, "disk-4", plain, os.O_RDWR)
	guest.ask("disk disk-4", "a file o")
	l.check(m.Unplug(l.ctx, "disk-4", nil))
	if text, err := os.ReadFile(plain); err != nil || !strings.HasPrefix(string(text), "by guest") || len(text) != 1<<20 {
		t.Errorf("the host's file has %d bytes, %.20q, %v", len(text), text, err)
	}
	// The same device again is another disk.
	l.plugDisk(m, "disk-3", first, os.O_RDWR)
	guest.ask("disk disk-3", "by guest")
	if n := len(m.devices()); n != 4 { // vsock, the controller, two disks
		t.Errorf("%d devices", n)
	}
	if err := m.Unplug(l.ctx, "disk-1", nil); !errdefs.IsNotFound(err) {
		t.Errorf("a second unplug: %v", err)
	}
	for _, disk := range []string{"disk-2", "disk-3"} {
		l.check(m.Unplug(l.ctx, disk, nil))
	}
	for _, process := range m.Processes() {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", process.PID))
		l.check(err)
		for _, file := range files {
			if target, _ := os.Readlink(file); target == first || target == second {
				t.Errorf("%s still has %s open", process.Name, target)
			}
		}
	}
}

// TestDiskErrors checks what cannot be plugged as a disk, that nothing is left of it, and how many can be.
func TestDiskErrors(t *testing.T) {
	l := newLab(t)
	m := l.boot()
	path := l.loopDevice("")
	plug := func(id, path string, readOnly bool) error {
		file, err := os.Open(path)
		l.check(err)
		defer file.Close()
		return m.Plug(l.ctx, hypervisor.Disk{ID: id, File: file, ReadOnly: readOnly})
	}
	if err := plug("a", "/dev/null", true); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "/dev/null") {
		t.Errorf("no block device: %v", err)
	}
	if err := plug("a", path, false); err == nil { // the file is open for reading
		t.Error("a disk to be written to was made of a device that cannot be")
	}
	for i := range maxDisks {
		l.check(plug(fmt.Sprintf("disk-%d", i), path, true))
	}
	if err := plug("disk-1", path, true); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a second disk of one name: %v", err)
	}
	if err := plug("more", path, true); !errdefs.IsResourceExhausted(err) {
		t.Errorf("one disk too many: %v", err)
	}
}
