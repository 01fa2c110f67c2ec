package runtime

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/runtime/oci"
)

// memoryDir makes a volume in memory as kubelet does, with a directory that is mounted by itself.
func memoryDir(t *testing.T) (whole, part string) {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	whole = filepath.Join(dir, "volumes/kubernetes.io~empty-dir/cache")
	part = filepath.Join(dir, "volume-subpaths/cache/app/0")
	mount := func(source, target, kind string, flags uintptr, data string) {
		t.Helper()
		if err := os.MkdirAll(target, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(source, target, kind, flags, data); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	}
	mount("tmpfs", whole, "tmpfs", 0, "size=8192,mode=2777,gid=5")
	if err := os.MkdirAll(filepath.Join(whole, "a/b"), 0o750); err != nil {
		t.Fatal(err)
	}
	mount(filepath.Join(whole, "a/b"), part, "", unix.MS_BIND, "")
	return whole, part
}

func TestTmpfsAt(t *testing.T) {
	whole, part := memoryDir(t)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(whole, link); err != nil {
		t.Fatal(err)
	}
	all := &oci.Tmpfs{Whole: whole, Path: ".", Size: 8192, Mode: 0o2777, GID: 5}
	for _, test := range []struct {
		path string
		want *oci.Tmpfs
	}{
		{whole, all},
		{link, all},
		{part, &oci.Tmpfs{Whole: whole, Path: "a/b", Size: 8192, Mode: 0o2750, GID: 5}},
		{filepath.Join(whole, "a"), nil},
		{filepath.Join(whole, "none"), nil},
		{"/proc", nil},
	} {
		if got, err := tmpfsAt(test.path); err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: got %+v, %v", test.path, got, err)
		}
	}
}

// TestVolumes: what is in memory is made in the guest, once for all containers; a directory of it comes and goes with its container.
func TestVolumes(t *testing.T) {
	whole, part := memoryDir(t)
	w := newTestSandbox(t)
	create := func(id string, sources ...string) *Container {
		t.Helper()
		bundle := writeBundle(t, func(spec *specs.Spec) {
			for _, source := range sources {
				spec.Mounts = append(spec.Mounts, specs.Mount{Type: "bind", Source: source, Destination: "/data/" + filepath.Base(source)})
			}
		})
		c, err := w.CreateContainer(t.Context(), ContainerOptions{ID: id, Bundle: bundle})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := create("c1", whole)
	second := create("c2", whole, part)
	for _, c := range []*Container{first, second} {
		if _, err := c.Delete(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	create("c3", whole)
	made, gone := got[protocol.Mount](w.fakeGuest), got[protocol.Unmount](w.fakeGuest)
	want := []protocol.Mount{
		{Source: "tmpfs", Target: "/run/limpet/volumes/empty-dir-cache", FSType: "tmpfs",
			Options: []string{"size=8192", "mode=2777", "uid=0", "gid=5"}},
		{Source: "/run/limpet/volumes/empty-dir-cache/a/b", Target: "/run/limpet/volumes/sub-path-c2-1", FSType: "bind",
			Options: []string{"mode=2750", "uid=0", "gid=5"}},
	}
	if !reflect.DeepEqual(made, want) {
		t.Errorf("made %+v", made)
	}
	if len(gone) != 1 || gone[0].Target != "/run/limpet/volumes/sub-path-c2-1" {
		t.Errorf("unmounted %+v", gone)
	}
}

// TestVolumeFails: the guest cannot make a volume; the next container tries again, and takes one that is there.
func TestVolumeFails(t *testing.T) {
	whole, _ := memoryDir(t)
	w := newTestSandbox(t)
	w.bundle = writeBundle(t, func(spec *specs.Spec) {
		spec.Mounts = append(spec.Mounts, specs.Mount{Type: "bind", Source: whole, Destination: "/data"})
	})
	answers := []error{errdefs.ErrResourceExhausted, errdefs.ErrAlreadyExists}
	w.fakeGuest.answer = func(_ context.Context, message protocol.HostMessage) (protocol.GuestMessage, error) {
		if _, ok := message.(protocol.Mount); !ok {
			return nil, nil
		}
		err := answers[0]
		answers = answers[1:]
		return nil, err
	}
	_, err := w.CreateContainer(t.Context(), ContainerOptions{ID: "c1", Bundle: w.bundle})
	if !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "mount on /data") {
		t.Errorf("got %v", err)
	}
	w.create(t, IO{})
	if len(answers) != 0 {
		t.Error("the guest was not asked again")
	}
}

// loopDevice makes a block device of the host and returns its numbers. It goes with the test.
func loopDevice(t *testing.T) (major, minor int64) {
	t.Helper()
	needRoot(t)
	image := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 1<<20)); err != nil {
		t.Fatal(err)
	}
	output, err := exec.Command("losetup", "--find", "--show", image).Output()
	if err != nil {
		t.Fatal(err)
	}
	device := strings.TrimSpace(string(output))
	t.Cleanup(func() {
		if err := exec.Command("losetup", "--detach", device).Run(); err != nil {
			t.Error(err)
		}
	})
	var status unix.Stat_t
	if err := unix.Stat(device, &status); err != nil {
		t.Fatal(err)
	}
	return int64(unix.Major(status.Rdev)), int64(unix.Minor(status.Rdev))
}

// withDisk has a bundle use a block device.
func withDisk(major, minor int64, access string) func(*specs.Spec) {
	return func(spec *specs.Spec) {
		spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/data", Type: "b", Major: major, Minor: minor}}
		spec.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{
			{Allow: true, Type: "b", Major: &major, Minor: &minor, Access: access},
		}}
	}
}

// TestDisks: containers with the same device share a disk, which goes with the last of them; one that may only read has another.
func TestDisks(t *testing.T) {
	major, minor := loopDevice(t)
	w := newTestSandbox(t)
	var plugged []hypervisor.Disk
	w.fakeMachine.plug = func(device hypervisor.Device) error {
		plugged = append(plugged, device.(hypervisor.Disk))
		return nil
	}
	guestTakesDisks(w)
	create := func(id, access string) *Container {
		t.Helper()
		c, err := w.CreateContainer(t.Context(), ContainerOptions{ID: id, Bundle: writeBundle(t, withDisk(major, minor, access))})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	remove := func(c *Container, want ...string) {
		t.Helper()
		if _, err := c.Delete(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(w.fakeMachine.unplugged, want) {
			t.Errorf("after %s is gone: unplugged %q, want %q", c.id, w.fakeMachine.unplugged, want)
		}
	}
	first, second, reader := create("c1", "rwm"), create("c2", "rwm"), create("c3", "r")
	if len(plugged) != 2 || plugged[0].ID != "disk-1" || plugged[0].ReadOnly || plugged[1].ID != "disk-2" || !plugged[1].ReadOnly {
		t.Errorf("plugged %+v", plugged)
	}
	for _, c := range []*Container{first, second} {
		if device := c.plan.Spec.Linux.Devices[0]; device.Major != 8 || device.Minor != 16 {
			t.Errorf("%s has %+v", c.id, device)
		}
	}
	// An update before the start leaves the devices their numbers in the guest.
	limit := int64(5)
	if err := first.Update(t.Context(), &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}}); err != nil {
		t.Fatal(err)
	}
	if rule := first.plan.Spec.Linux.Resources.Devices[0]; *rule.Major != 8 || *rule.Minor != 16 {
		t.Errorf("rule %d:%d", *rule.Major, *rule.Minor)
	}
	remove(first)
	remove(second, "disk-1")
	remove(reader, "disk-1", "disk-2")
	remove(create("c1", "rwm"), "disk-1", "disk-2", "disk-3")
}

// TestRoomForDisks: a machine with many cards whose first container has a disk has a port more.
func TestRoomForDisks(t *testing.T) {
	without := newTestSandbox(t)
	with := newWorld(t)
	with.bundle = writeBundle(t, withDisk(7, 0, "r"))
	sandbox, err := newSandbox(t.Context(), with.options(t), with.platform)
	if err != nil {
		t.Fatal(err)
	}
	if err := sandbox.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	with.plan.nics = make([]hypervisor.NIC, hypervisor.DefaultPorts)
	without.plan.nics = with.plan.nics
	if got, want := with.plan.ports(), without.plan.ports()+1; got != want {
		t.Errorf("%d ports, want %d", got, want)
	}
}

// guestTakesDisks has the guest answer that a disk is its 8:16.
func guestTakesDisks(w *world) {
	w.fakeGuest.answer = func(_ context.Context, message protocol.HostMessage) (protocol.GuestMessage, error) {
		if plug, ok := message.(protocol.Plug); ok && plug.Device == protocol.PlugDisk {
			return protocol.BlockDevice{Major: 8, Minor: 16}, nil
		}
		return nil, nil
	}
}

func TestDiskErrors(t *testing.T) {
	major, minor := loopDevice(t)
	for _, test := range []struct {
		name         string
		major, minor int64
		plug         error
		answer       protocol.GuestMessage
		want         string
		unplugged    []string
	}{
		{"no device", 259, 1 << 19, nil, nil, "device /dev/data (b 259:524288): the host has no such block device", nil},
		{"no port", major, minor, errdefs.ErrResourceExhausted, nil, errdefs.ErrResourceExhausted.Error(), nil},
		{"nonsense of the guest", major, minor, nil, protocol.Ready{}, "protocol.Ready", []string{"disk-1"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newTestSandbox(t)
			w.fakeMachine.plug = func(hypervisor.Device) error { return test.plug }
			w.fakeGuest.answer = func(_ context.Context, message protocol.HostMessage) (protocol.GuestMessage, error) {
				if _, ok := message.(protocol.Plug); ok {
					return test.answer, nil
				}
				return nil, nil
			}
			bundle := writeBundle(t, withDisk(test.major, test.minor, "rw"))
			_, err := w.CreateContainer(t.Context(), ContainerOptions{ID: "c1", Bundle: bundle})
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "/dev/data") {
				t.Errorf("got %v, want %s", err, test.want)
			}
			if !slices.Equal(w.fakeMachine.unplugged, test.unplugged) {
				t.Errorf("unplugged %q", w.fakeMachine.unplugged)
			}
		})
	}
}

// TestMapIDs: through a mount with other ids a file has another owner, and who writes as that one owns files as the first.
func TestMapIDs(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 1000}}
	tree, err := openBind(dir, bindOptions{idMap: &oci.IDMap{UIDs: ids, GIDs: ids}})
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	var status unix.Stat_t
	if err := unix.Fstatat(int(tree.Fd()), "file", &status, 0); err != nil || status.Uid != 100000 || status.Gid != 100000 {
		t.Errorf("owner %d:%d, %v", status.Uid, status.Gid, err)
	}
	if _, err := openBind("/proc", bindOptions{idMap: &oci.IDMap{UIDs: ids, GIDs: ids}}); err == nil ||
		!strings.Contains(err.Error(), "/proc") {
		t.Errorf("a file system that cannot: %v", err)
	}
}
