package standalone

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestNewSpec(t *testing.T) {
	sh, none := "sh", ""
	path := defaultEnv[0]
	image := Image{
		Entrypoint: []string{"server"}, Cmd: []string{"--port", "80"}, Env: []string{"PATH=/app", "MODE=fast"}, Workdir: "/srv", User: "web",
	}
	quota, period, memory := int64(150000), uint64(100000), int64(64<<20)
	for _, test := range []struct {
		name    string
		request Request
		image   Image
		process specs.Process
		cpu     *specs.LinuxCPU
		memory  *specs.LinuxMemory
		host    string
	}{
		{"a command", Request{Name: "n", Source: "/r", Args: []string{"ls", "-l"}}, Image{},
			specs.Process{Args: []string{"ls", "-l"}, Cwd: "/", Env: []string{path}}, nil, nil, "n"},
		{"what the image says", Request{Name: "n"}, image, specs.Process{
			Args: []string{"server", "--port", "80"}, Cwd: "/srv", Env: []string{"PATH=/app", "MODE=fast"}, User: specs.User{Username: "web"},
		}, nil, nil, "n"},
		{"arguments", Request{Name: "n", Args: []string{"--help"}}, image, specs.Process{
			Args: []string{"server", "--help"}, Cwd: "/srv", Env: []string{"PATH=/app", "MODE=fast"}, User: specs.User{Username: "web"},
		}, nil, nil, "n"},
		{"another entrypoint", Request{Name: "n", Entrypoint: &sh}, image, specs.Process{
			Args: []string{"sh"}, Cwd: "/srv", Env: []string{"PATH=/app", "MODE=fast"}, User: specs.User{Username: "web"},
		}, nil, nil, "n"},
		{"no entrypoint", Request{Name: "n", Entrypoint: &none, Args: []string{"ls"}}, image, specs.Process{
			Args: []string{"ls"}, Cwd: "/srv", Env: []string{"PATH=/app", "MODE=fast"}, User: specs.User{Username: "web"},
		}, nil, nil, "n"},
		{"what the user says", Request{
			Name: "n", Args: []string{"x"}, Env: []string{"MODE=slow", "A=b=c", "MODE=slower"}, Workdir: "/w", User: "1:2", Hostname: "h",
			CPUs: 1.5, Memory: memory,
		}, image, specs.Process{
			Args: []string{"server", "x"}, Cwd: "/w", Env: []string{"PATH=/app", "MODE=slower", "A=b=c"}, User: specs.User{Username: "1:2"},
		}, &specs.LinuxCPU{Quota: &quota, Period: &period}, &specs.LinuxMemory{Limit: &memory}, "h"},
		{"a terminal", Request{Name: "n", Args: []string{"sh"}, Terminal: true, Size: Size{80, 24}}, Image{}, specs.Process{
			Args: []string{"sh"}, Cwd: "/", Env: []string{path, "TERM=xterm"}, Terminal: true, ConsoleSize: &specs.Box{Width: 80, Height: 24},
		}, nil, nil, "n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			spec, err := NewSpec(test.request, test.image, Host{Root: "/root", NetNS: "/net"})
			if err != nil {
				t.Fatal(err)
			}
			process := *spec.Process
			process.Capabilities = nil
			if !reflect.DeepEqual(process, test.process) {
				got, _ := json.Marshal(process)
				want, _ := json.Marshal(test.process)
				t.Errorf("got %s\nwant %s", got, want)
			}
			if resources := spec.Linux.Resources; !reflect.DeepEqual(resources.CPU, test.cpu) || !reflect.DeepEqual(resources.Memory, test.memory) {
				t.Errorf("got %+v, %+v", resources.CPU, resources.Memory)
			}
			if spec.Annotations[annotationImageName] != test.request.Source ||
				spec.Hostname != test.host || spec.Root.Path != "/root" || spec.Root.Readonly ||
				!slices.Contains(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/net"}) {
				t.Errorf("got %s, %+v", spec.Hostname, spec.Root)
			}
		})
	}
}

func TestNewSpecMounts(t *testing.T) {
	request := Request{Args: []string{"x"}, ReadOnly: true, Volumes: []Volume{{"/v", "/etc/hosts", false}, {"/w", "/w", true}}}
	spec, err := NewSpec(request, Image{}, Host{Files: map[string]string{"/etc/hosts": "/h", "/etc/a": "/a"}})
	if err != nil {
		t.Fatal(err)
	}
	var binds []string
	for _, mount := range spec.Mounts {
		if mount.Type == "bind" {
			binds = append(binds, mount.Source+" "+mount.Destination+" "+strings.Join(mount.Options, ","))
		}
	}
	// A volume covers the file that everybody gets.
	want := []string{"/a /etc/a rbind", "/h /etc/hosts rbind", "/v /etc/hosts rbind", "/w /w rbind,rro"}
	if !slices.Equal(binds, want) || !spec.Root.Readonly {
		t.Errorf("got %q, %+v", binds, spec.Root)
	}
}

func TestNewSpecRefuses(t *testing.T) {
	for _, request := range []Request{{Source: "/r"}, {Source: "/r", Args: []string{"x"}, Workdir: "w"}} {
		if _, err := NewSpec(request, Image{}, Host{}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", request, err)
		}
	}
}
