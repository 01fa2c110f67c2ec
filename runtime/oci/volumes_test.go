package oci

import (
	"reflect"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/guest/protocol"
)

const (
	kubeletPod = "/var/lib/kubelet/pods/1234"
	memoryDir  = kubeletPod + "/volumes/kubernetes.io~empty-dir/cache"
	podShm     = "/run/containerd/io.containerd.grpc.v1.cri/sandboxes/abc/shm"
)

// tmpfs stands for a host with a pod's volumes.
func tmpfs(path string) (*Tmpfs, error) {
	return map[string]*Tmpfs{
		podShm:    {Size: 1 << 20, Mode: 0o1777},
		memoryDir: {Whole: memoryDir, Path: ".", Size: 4096, Mode: 0o2777, GID: 5},
		kubeletPod + "/volume-subpaths/cache/app/0":    {Whole: memoryDir, Path: "a/b", Size: 4096, Mode: 0o750, UID: 7},
		kubeletPod + "/volume-subpaths/secret/app/1":   {Size: 4096, Mode: 0o755},
		kubeletPod + "/volumes/kubernetes.io~secret/s": {Size: 4096, Mode: 0o1777},
	}[path], nil
}

func TestVolumes(t *testing.T) {
	shm := func(size string) Volume {
		return Volume{Name: "shm", Destination: "/dev/shm", Options: []string{size, "mode=1777", "nosuid", "nodev", "noexec"}}
	}
	cache := Volume{Name: "empty-dir-cache", Destination: "/data", Options: []string{"size=4096", "mode=2777", "uid=0", "gid=5"}}
	part := Volume{Name: "sub-path-c1-0", Destination: "/data", Part: "empty-dir-cache/a/b", Options: []string{"mode=750", "uid=7", "gid=0"}}
	bound := func(source, destination string, options ...string) specs.Mount {
		return specs.Mount{Type: "bind", Source: source, Destination: destination, Options: options}
	}
	own := specs.Mount{Type: "tmpfs", Source: "shm", Destination: "/dev/shm", Options: []string{"nosuid", "size=65536k"}}
	for _, test := range []struct {
		name    string
		mount   specs.Mount
		lone    bool // no pod
		volumes []Volume
		source  string // in the guest; empty: the share's
	}{
		{"shared memory", bound(podShm, "/dev/shm", "rbind", "rw"), false, []Volume{shm("size=1048576")}, "/run/limpet/volumes/shm"},
		{"shared memory that nobody made", bound("/run/sandboxes/abc/shm", "/dev/shm", "rbind"), false, []Volume{shm("size=67108864")},
			"/run/limpet/volumes/shm"},
		{"shared memory of its own, in a pod", own, false, []Volume{shm("size=67108864")}, "/run/limpet/volumes/shm"},
		{"shared memory of its own", own, true, nil, "shm"},
		{"shared memory of the host", bound("/dev/shm", "/dev/shm", "rbind"), false, nil, ""},
		{"memory", bound(memoryDir, "/data", "rbind", "ro"), false, []Volume{cache}, "/run/limpet/volumes/empty-dir-cache"},
		{"memory for shared memory", bound(memoryDir, "/dev/shm", "rbind"), false,
			[]Volume{{Name: cache.Name, Destination: "/dev/shm", Options: cache.Options}}, "/run/limpet/volumes/empty-dir-cache"},
		{"directory of memory", bound(kubeletPod+"/volume-subpaths/cache/app/0", "/data", "rbind"), false, []Volume{cache, part},
			"/run/limpet/volumes/sub-path-c1-0"},
		{"directory of a secret", bound(kubeletPod+"/volume-subpaths/secret/app/1", "/data", "rbind"), false, nil, ""},
		{"secret", bound(kubeletPod+"/volumes/kubernetes.io~secret/s", "/data", "rbind", "ro"), false, nil, ""},
		{"on a disk", bound(kubeletPod+"/volumes/kubernetes.io~empty-dir/work", "/data", "rbind"), false, nil, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			spec := minimal()
			spec.Mounts = []specs.Mount{test.mount}
			options := Options{ContainerID: "c1", GuestDir: "/share/c1", HasMountsBelow: mounted, Tmpfs: tmpfs}
			if !test.lone {
				options.Pod = &Pod{}
			}
			plan, err := NewPlan(spec, options)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(plan.Volumes, test.volumes) {
				t.Errorf("got %+v\nwant %+v", plan.Volumes, test.volumes)
			}
			got, source := plan.Spec.Mounts[0], test.source
			if source == "" {
				source = "/share/c1/mounts/0"
			}
			if got.Source != source || (len(plan.Binds) == 1) != (test.source == "") {
				t.Errorf("mount %+v, binds %+v", got, plan.Binds)
			}
			if want := test.mount.Options; isBind(&test.mount) && !reflect.DeepEqual(got.Options, want) {
				t.Errorf("options %q, want %q", got.Options, want)
			}
			if len(test.volumes) > 0 && got.Type != "bind" {
				t.Errorf("type %s", got.Type)
			}
		})
	}
	if want := (protocol.Mount{Source: "/run/limpet/volumes/empty-dir-cache/a/b", Target: "/run/limpet/volumes/sub-path-c1-0", FSType: "bind",
		Options: part.Options}); !reflect.DeepEqual(part.Message(), want) {
		t.Errorf("message %+v", part.Message())
	}
	if want := (protocol.Mount{Source: "tmpfs", Target: "/run/limpet/volumes/empty-dir-cache", FSType: "tmpfs",
		Options: cache.Options}); !reflect.DeepEqual(cache.Message(), want) {
		t.Errorf("message %+v", cache.Message())
	}
}

// TestVolumeTwice: a container that sees a volume in two places has it once.
func TestVolumeTwice(t *testing.T) {
	spec := minimal()
	for _, destination := range []string{"/a", "/b"} {
		spec.Mounts = append(spec.Mounts, specs.Mount{Type: "bind", Source: memoryDir, Destination: destination})
		sub := kubeletPod + "/volume-subpaths/cache/app/0"
		spec.Mounts = append(spec.Mounts, specs.Mount{Type: "bind", Source: sub, Destination: destination + "/sub"})
	}
	plan, err := NewPlan(spec, Options{ContainerID: "c1", GuestDir: "/share/c1", HasMountsBelow: mounted, Tmpfs: tmpfs, Pod: &Pod{}})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, volume := range plan.Volumes {
		names = append(names, volume.Name)
	}
	if want := []string{"empty-dir-cache", "sub-path-c1-1", "sub-path-c1-2"}; !reflect.DeepEqual(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
}

func TestIDMap(t *testing.T) {
	ids := func(host uint32) []specs.LinuxIDMapping {
		return []specs.LinuxIDMapping{{ContainerID: 0, HostID: host, Size: 65536}}
	}
	for _, test := range []struct {
		name  string
		mount specs.Mount
		linux specs.Linux
		want  *IDMap
		fails bool
	}{
		{name: "none", mount: specs.Mount{Options: []string{"rbind"}}},
		{name: "own", mount: specs.Mount{UIDMappings: ids(1), GIDMappings: ids(2)}, want: &IDMap{UIDs: ids(1), GIDs: ids(2)}},
		{name: "with what is below", mount: specs.Mount{UIDMappings: ids(1), GIDMappings: ids(2), Options: []string{"ridmap"}},
			want: &IDMap{UIDs: ids(1), GIDs: ids(2), Recursive: true}},
		{name: "the container's", mount: specs.Mount{Options: []string{"idmap"}}, linux: specs.Linux{UIDMappings: ids(3), GIDMappings: ids(4)},
			want: &IDMap{UIDs: ids(3), GIDs: ids(4)}},
		{name: "no ids", mount: specs.Mount{Options: []string{"idmap"}}, fails: true},
		{name: "no group ids", mount: specs.Mount{UIDMappings: ids(1)}, fails: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			spec := minimal()
			test.mount.Type, test.mount.Source, test.mount.Destination = "bind", "/src", "/data"
			test.linux.Namespaces = spec.Linux.Namespaces
			spec.Mounts, spec.Linux = []specs.Mount{test.mount}, &test.linux
			plan, err := NewPlan(spec, Options{ContainerID: "c1", GuestDir: "/share/c1", HasMountsBelow: mounted, Tmpfs: tmpfs})
			if (err != nil) != test.fails {
				t.Fatal(err)
			}
			if err != nil {
				return
			}
			if got := plan.Binds[0].IDMap; !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
			for _, option := range plan.Spec.Mounts[0].Options {
				if option == "idmap" || option == "ridmap" {
					t.Errorf("the guest maps ids: %q", plan.Spec.Mounts[0].Options)
				}
			}
			if len(plan.Spec.Mounts[0].UIDMappings) > 0 {
				t.Error("the guest maps ids")
			}
		})
	}
}
