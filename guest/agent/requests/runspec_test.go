package requests

import (
	"reflect"
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/internal/defaultspec"
)

func TestPlanRun(t *testing.T) {
	image := protocol.ImageInfo{
		Entrypoint: []string{"/entry"}, Cmd: []string{"default"}, Env: []string{"A=image", "PATH=/image", "EMPTY="}, Workdir: new("/work"),
	}
	type result struct {
		args, env []string
		cwd       string
		terminal  bool
	}
	for name, test := range map[string]struct {
		request protocol.RunRequest
		image   protocol.ImageInfo
		want    result
	}{
		"as the image says": {
			protocol.RunRequest{}, image,
			result{[]string{"/entry", "default"}, []string{"PATH=/image", "A=image", "EMPTY="}, "/work", false},
		},
		"as the request says": {
			protocol.RunRequest{
				Command: []string{"a", "b"}, Env: []protocol.Pair{{Name: "A", Value: "request"}, {Name: "B", Value: "="}},
				Workdir: new("/tmp"), TTY: true,
			},
			image,
			result{[]string{"/entry", "a", "b"}, []string{"PATH=/image", "A=request", "EMPTY=", "TERM=xterm", "B=="}, "/tmp", true},
		},
		"an image that says nothing": {
			protocol.RunRequest{Command: []string{"sh"}}, protocol.ImageInfo{Workdir: new("")},
			result{[]string{"sh"}, []string{machineEnv[0].Name + "=" + machineEnv[0].Value}, "/", false},
		},
	} {
		spec, err := planRun(test.request, surroundings{image: test.image})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := result{spec.Process.Args, spec.Process.Env, spec.Process.Cwd, spec.Process.Terminal}
		if !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
	}
}

func TestPlanRunRefuses(t *testing.T) {
	command := []string{"sh"}
	for name, test := range map[string]struct {
		request protocol.RunRequest
		image   protocol.ImageInfo
	}{
		"no program":             {},
		"a name with =":          {protocol.RunRequest{Command: command, Env: []protocol.Pair{{Name: "A=B"}}}, protocol.ImageInfo{}},
		"a value with a zero":    {protocol.RunRequest{Command: command, Env: []protocol.Pair{{Name: "A", Value: "\x00"}}}, protocol.ImageInfo{}},
		"environment of nothing": {protocol.RunRequest{Command: command}, protocol.ImageInfo{Env: []string{"A"}}},
		"relative directory":     {protocol.RunRequest{Command: command, Workdir: new("work")}, protocol.ImageInfo{}},
		"relative source": {protocol.RunRequest{Command: command, Mounts: []protocol.Share{{Tag: "a", Target: "/a"}}},
			protocol.ImageInfo{}},
		"relative target": {protocol.RunRequest{Command: command, Mounts: []protocol.Share{{Tag: "/a", Target: "a"}}},
			protocol.ImageInfo{}},
		"target with ..": {protocol.RunRequest{Command: command, Mounts: []protocol.Share{{Tag: "/a", Target: "/a/../b"}}},
			protocol.ImageInfo{}},
	} {
		if spec, err := planRun(test.request, surroundings{image: test.image}); err == nil {
			t.Errorf("%s: %+v", name, spec.Process)
		}
	}
}

func TestPlanRunMounts(t *testing.T) {
	request := protocol.RunRequest{
		Command: []string{"sh"}, Mounts: []protocol.Share{{Tag: "/data", Target: "/mnt"}, {Tag: "/a/", Target: "/b", ReadOnly: true}},
	}
	spec, err := planRun(request, surroundings{user: specs.User{UID: 7}, hostname: "run-1", networkFiles: []string{"/etc/hosts"}})
	if err != nil {
		t.Fatal(err)
	}
	got := spec.Mounts[len(defaultspec.Mounts()):]
	want := []specs.Mount{
		{Destination: "/etc/hosts", Type: "bind", Source: "/etc/hosts", Options: []string{"bind", "ro"}},
		{Destination: "/mnt", Type: "bind", Source: "/data", Options: []string{"rbind", "rprivate", "rw"}},
		{Destination: "/b", Type: "bind", Source: "/a/", Options: []string{"rbind", "rprivate", "ro"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("mounts %+v, want %+v", got, want)
	}
	if spec.Process.User.UID != 7 || spec.Hostname != "run-1" || !spec.Process.NoNewPrivileges {
		t.Errorf("user %+v, host name %s", spec.Process.User, spec.Hostname)
	}
	if slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace }) {
		t.Error("the container has not the machine's network")
	}
}
