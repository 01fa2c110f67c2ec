package rootfs

import (
	"os"
	"reflect"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestParseOptions(t *testing.T) {
	noatime, strict := uint64(unix.MOUNT_ATTR_NOATIME), uint64(unix.MOUNT_ATTR_STRICTATIME)
	for name, c := range map[string]struct {
		given []string
		want  options
		known bool
	}{
		"nothing":      {nil, options{}, true},
		"a bind":       {[]string{"bind"}, options{bind: true}, true},
		"of all":       {[]string{"rbind", "bind"}, options{bind: true, recursive: true}, true},
		"attributes":   {[]string{"nosuid", "noexec", "nodev", "ro"}, options{attributes: 0xf}, true},
		"taken back":   {[]string{"ro", "nosuid", "rw", "suid"}, options{}, true},
		"the last":     {[]string{"noatime", "strictatime"}, options{atime: &strict}, true},
		"times":        {[]string{"noatime", "nodiratime"}, options{atime: &noatime, attributes: unix.MOUNT_ATTR_NODIRATIME}, true},
		"of all below": {[]string{"rro", "rnosuid", "rsuid"}, options{sets: unix.MOUNT_ATTR_RDONLY, clears: unix.MOUNT_ATTR_NOSUID}, true},
		"propagation":  {[]string{"rslave", "private"}, options{propagation: []change{{unix.MS_SLAVE, true}, {unix.MS_PRIVATE, false}}}, true},
		"file system's": {
			[]string{"size=1m", "newinstance", "sync", "dirsync", "async"},
			options{data: []string{"size=1m", "newinstance"}, flags: []string{"dirsync"}}, true,
		},
		"nothing here": {[]string{"defaults", "mand"}, options{}, true},
		"a remount":    {[]string{"remount"}, options{}, false},
		"a copy":       {[]string{"tmpcopyup"}, options{}, false},
		"mapped ids":   {[]string{"idmap"}, options{}, false},
	} {
		got, known := parseOptions(c.given)
		if known != c.known || known && !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, %v, want %+v, %v", name, got, known, c.want, c.known)
		}
	}
}

func TestMountFlags(t *testing.T) {
	for option, want := range map[string]uintptr{
		"nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC, "noatime": unix.MS_NOATIME,
		"strictatime": unix.MS_STRICTATIME, "relatime": 0, "ro": 0, "nodiratime": unix.MS_NODIRATIME,
	} {
		if o, _ := parseOptions([]string{option}); o.mountFlags() != want {
			t.Errorf("%s: %#x, want %#x", option, o.mountFlags(), want)
		}
	}
}

func TestNew(t *testing.T) {
	mode := os.FileMode(0o640)
	plan, err := New(&specs.Spec{
		Process: &specs.Process{Cwd: "/a/../work"}, Root: &specs.Root{Readonly: true},
		Mounts: []specs.Mount{
			{Destination: "/proc/", Type: "proc", Source: "proc", Options: []string{"nosuid", "hidepid=2", "subset=pid"}},
			{Destination: "dev/./pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance"}},
			{Destination: "/data", Type: "none", Source: "/source", Options: []string{"rbind"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup2", Options: []string{"ro"}},
		},
		Linux: &specs.Linux{Devices: []specs.LinuxDevice{
			{Path: "/dev/x", Type: "b", Major: 8, Minor: 1, FileMode: &mode}, {Path: "/dev/p", Type: "p"},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if plan.Proc == nil || plan.Proc.Flags != unix.MS_NOSUID || plan.Proc.Data != "hidepid=2,subset=pid" || !plan.Terminal || !plan.rootOnly ||
		plan.cwd != "work" || plan.propagation != unix.MS_REC|unix.MS_PRIVATE {
		t.Errorf("%+v", plan)
	}
	for i, want := range []mount{
		{kind: proc, target: "proc"}, {kind: fileSystem, target: "dev/pts"}, {kind: bind, target: "data", source: "/source"},
		{kind: group, target: "sys/fs/cgroup", source: "cgroup2"},
	} {
		got := plan.mounts[i]
		if got.kind != want.kind || got.target != want.target || want.source != "" && got.source != want.source {
			t.Errorf("mount %d: %+v", i, got)
		}
	}
	want := []device{{path: "dev/x", mode: unix.S_IFBLK | 0o640, number: unix.Mkdev(8, 1)}, {path: "dev/p", mode: unix.S_IFIFO | 0o666}}
	if !reflect.DeepEqual(plan.devices[:2], want) || len(plan.devices) != 2+len(usualDevices) {
		t.Errorf("devices %+v", plan.devices)
	}
}

func TestUnknown(t *testing.T) {
	for name, change := range map[string]func(*specs.Spec){
		"a file system": func(s *specs.Spec) {
			s.Mounts[0] = specs.Mount{Destination: "/x", Type: "ext4", Options: []string{"ro"}}
		},
		"no options":  func(s *specs.Spec) { s.Mounts[0] = specs.Mount{Destination: "/x", Type: "tmpfs"} },
		"the root":    func(s *specs.Spec) { s.Mounts[0].Destination = "/x/.." },
		"two procs":   func(s *specs.Spec) { s.Mounts = append(s.Mounts, s.Mounts[0]) },
		"mapped ids":  func(s *specs.Spec) { s.Mounts[0].UIDMappings = []specs.LinuxIDMapping{{Size: 1}} },
		"propagation": func(s *specs.Spec) { s.Linux.RootfsPropagation = "sideways" },
		"a device":    func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "x"}} },
		"a bind by type": func(s *specs.Spec) {
			s.Mounts[0] = specs.Mount{Destination: "/x", Type: "bind", Options: []string{"ro"}}
		},
	} {
		spec := &specs.Spec{
			Process: &specs.Process{Cwd: "/"}, Linux: &specs.Linux{}, Mounts: []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}},
		}
		if _, err := New(spec); err != nil {
			t.Fatal(err)
		}
		change(spec)
		if _, err := New(spec); !errdefs.IsNotImplemented(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
