package oci

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden is what a plan is compared with.
type golden struct {
	Binds      []Bind
	NetNS      string
	NewNetNS   bool
	NetSysctls map[string]string
	Dropped    []string
	Spec       *specs.Spec
}

// TestPlanGolden plans each testdata/NAME/config.json and compares with testdata/NAME/plan.json.
func TestPlanGolden(t *testing.T) {
	bundles, err := filepath.Glob("testdata/*")
	if err != nil || len(bundles) == 0 {
		t.Fatal(bundles, err)
	}
	for _, bundle := range bundles {
		t.Run(filepath.Base(bundle), func(t *testing.T) {
			spec, err := Load(bundle)
			if err != nil {
				t.Fatal(err)
			}
			before, _ := clone(spec)
			plan, err := NewPlan(spec, Options{
				ContainerID: "c1", Bundle: "/bundle", GuestDir: "/share/c1", HasMountsBelow: mounted, Owner: owners,
			})
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(spec, before) {
				t.Error("the bundle's configuration was changed")
			}
			got, err := json.MarshalIndent(golden{plan.Binds, plan.NetNS, plan.NewNetNS, plan.NetSysctls, plan.Dropped, plan.Spec}, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(bundle, "plan.json")
			if *update {
				if err := os.WriteFile(path, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if strings.TrimSpace(string(want)) != string(got) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// mounted stands for a host on which something is mounted below /srv.
func mounted(dir string) (bool, error) { return dir == "/srv", nil }

func TestLoadErrors(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"missing", "", "no config.json"},
		{"broken", "{", "broken"},
		{"wrong type", `{"process": 1}`, "broken"},
		{"no process", `{"root": {}, "linux": {}}`, `no "process"`},
		{"no root", `{"process": {"args": ["x"]}, "linux": {}}`, `no "root"`},
		{"no linux", `{"process": {"args": ["x"]}, "root": {}}`, `no "linux"`},
		{"no command", `{"process": {}, "root": {}, "linux": {}}`, "no command"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			if test.text != "" {
				if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(test.text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, err := Load(dir)
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), dir) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// minimal is a configuration that every plan accepts.
func minimal() *specs.Spec {
	return &specs.Spec{
		Process: &specs.Process{Args: []string{"true"}},
		Root:    &specs.Root{Path: "rootfs"},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.MountNamespace},
		}},
	}
}

func TestPlanRefuses(t *testing.T) {
	without := func(kind specs.LinuxNamespaceType) func(*specs.Spec) {
		return func(spec *specs.Spec) {
			var kept []specs.LinuxNamespace
			for _, namespace := range spec.Linux.Namespaces {
				if namespace.Type != kind {
					kept = append(kept, namespace)
				}
			}
			spec.Linux.Namespaces = kept
		}
	}
	mount := func(mount specs.Mount) func(*specs.Spec) {
		return func(spec *specs.Spec) { spec.Mounts = append(spec.Mounts, mount) }
	}
	for _, test := range []struct {
		name   string
		change func(*specs.Spec)
		want   string
	}{
		{"host PID", without(specs.PIDNamespace), "pid namespace"},
		{"host IPC", without(specs.IPCNamespace), "ipc namespace"},
		{"PID namespace of the host", joining(specs.PIDNamespace, "/proc/1/ns/pid"), "pid namespace /proc/1/ns/pid"},
		{"IPC namespace of somebody else", joining(specs.IPCNamespace, "/proc/76/ns/ipc"), "ipc namespace /proc/76/ns/ipc"},
		{"namespace of another type", joining(specs.PIDNamespace, "/proc/77/ns/ipc"), "pid namespace /proc/77/ns/ipc"},
		{"namespace in a file", joining(specs.UTSNamespace, "/run/uts"), "uts namespace /run/uts"},
		{"no process", joining(specs.UTSNamespace, "/proc/99999999999999999999/ns/uts"), "99999999999999999999"},
		{"mount namespace", joining(specs.MountNamespace, "/proc/77/ns/mnt"), "mount namespace /proc/77/ns/mnt"},
		{"cgroup namespace", joining(specs.CgroupNamespace, "/proc/77/ns/cgroup"), "cgroup namespace /proc/77/ns/cgroup"},
		{"user namespace of the host", func(spec *specs.Spec) {
			spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: "/proc/1/ns/user"})
		}, "/proc/1/ns/user"},
		{"network device", func(spec *specs.Spec) {
			spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth1": {}}
		}, "netDevices"},
		{"file system", mount(specs.Mount{Destination: "/data", Type: "ext4", Source: "/dev/sdb"}), `/data: a file system of type "ext4"`},
		{"shared", mount(specs.Mount{Destination: "/data", Type: "bind", Source: "/x", Options: []string{"rshared"}}), "/data"},
		{"device", func(spec *specs.Spec) {
			spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/kvm", Type: "c", Major: 10, Minor: 232}}
		}, "/dev/kvm"},
	} {
		t.Run(test.name, func(t *testing.T) {
			spec := minimal()
			test.change(spec)
			_, err := NewPlan(spec, Options{ContainerID: "c1", Owner: owners})
			if !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestBinds(t *testing.T) {
	for _, test := range []struct {
		name  string
		mount specs.Mount
		want  *Bind
	}{
		{"directory", specs.Mount{Type: "bind", Source: "/srv/", Options: []string{"rbind", "rw"}}, &Bind{Source: "/srv", Recursive: true}},
		{"no type", specs.Mount{Source: "/srv", Options: []string{"bind"}}, &Bind{Source: "/srv"}},
		{"relative", specs.Mount{Type: "bind", Source: "data"}, &Bind{Source: "/bundle/data"}},
		{"read-only", specs.Mount{Type: "bind", Source: "/srv", Options: []string{"ro"}}, &Bind{Source: "/srv", ReadOnly: true}},
		{"read-only with what is below", specs.Mount{Type: "bind", Source: "/srv", Options: []string{"rbind", "rro"}},
			&Bind{Source: "/srv", Recursive: true, ReadOnly: true, ReadOnlyBelow: true}},
		{"last one counts", specs.Mount{Type: "bind", Source: "/srv", Options: []string{"ro", "rw"}}, &Bind{Source: "/srv"}},
		{"slave", specs.Mount{Type: "bind", Source: "/srv", Options: []string{"rslave"}}, &Bind{Source: "/srv", Slave: true}},
		{"the kernel's", specs.Mount{Type: "bind", Source: "/sys/fs/cgroup"}, nil},
		{"a device", specs.Mount{Type: "bind", Source: "/dev/fuse"}, nil},
		{"shared memory", specs.Mount{Type: "bind", Source: "/dev/shm/x"}, &Bind{Source: "/dev/shm/x"}},
		{"alike in name", specs.Mount{Type: "bind", Source: "/system"}, &Bind{Source: "/system"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			spec := minimal()
			test.mount.Destination = "/data"
			spec.Mounts = []specs.Mount{test.mount}
			plan, err := NewPlan(spec, Options{
				ContainerID: "c1", Bundle: "/bundle", GuestDir: "/share/c1", HasMountsBelow: mounted, Owner: owners,
			})
			if err != nil {
				t.Fatal(err)
			}
			source := plan.Spec.Mounts[0].Source
			if test.want == nil {
				if len(plan.Binds) != 0 || source != test.mount.Source {
					t.Errorf("got %+v, source %s", plan.Binds, source)
				}
				return
			}
			test.want.Name, test.want.Destination = "0", "/data"
			if len(plan.Binds) != 1 || plan.Binds[0] != *test.want || source != "/share/c1/mounts/0" {
				t.Errorf("got %+v, source %s", plan.Binds, source)
			}
		})
	}
}

// TestReadOnlyInGuest: the guest makes a bind read-only, too, unless it would do so to mounts below it that are not.
func TestReadOnlyInGuest(t *testing.T) {
	for _, test := range []struct {
		name   string
		source string
		given  []string
		want   []string
	}{
		{"nothing below", "/data", []string{"rbind", "ro"}, []string{"rbind", "ro"}},
		{"mounts below", "/srv", []string{"rbind", "nosuid", "ro"}, []string{"rbind", "nosuid"}},
		{"mounts below, read-only too", "/srv", []string{"rbind", "rro"}, []string{"rbind", "rro"}},
		{"mounts below are left out", "/srv", []string{"bind", "ro"}, []string{"bind", "ro"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			spec := minimal()
			spec.Mounts = []specs.Mount{{Destination: "/data", Type: "bind", Source: test.source, Options: test.given}}
			plan, err := NewPlan(spec, Options{ContainerID: "c1", GuestDir: "/share/c1", HasMountsBelow: mounted})
			if err != nil {
				t.Fatal(err)
			}
			if got := plan.Spec.Mounts[0].Options; !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
