package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mountTmpfs mounts a file system with one file on a directory of the host that it makes, until the test ends.
func (s *scope) mountTmpfs(dir, file string) {
	s.Helper()
	s.must(os.MkdirAll(dir, 0o755))
	s.must(unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"))
	s.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			s.Error(err)
		}
	})
	s.must(os.WriteFile(filepath.Join(dir, file), nil, 0o644))
}

// bind returns a bind mount for a container's configuration.
func bind(source, destination string, options ...string) func(*specs.Spec) {
	return func(spec *specs.Spec) {
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: destination, Type: "bind", Source: source, Options: options})
	}
}

// TestBindReadOnly binds a directory in which something is mounted: read-only is the directory, or all that is mounted below it too.
func TestBindReadOnly(t *testing.T) {
	s := begin(t)
	dir := t.TempDir()
	s.must(os.Chmod(dir, 0o755))
	s.mountTmpfs(filepath.Join(dir, "below"), "file")
	first := s.sleeper()
	pod := first.pod()
	const script = "touch /home/new 2>&1; ls /home/below; touch /home/below/new 2>&1 && rm /home/below/new && echo written"
	const denied = "touch: /home/new: Read-only file system\n"
	for i, test := range []struct {
		name    string
		options []string
		script  string
		want    string
	}{
		{"not recursive", []string{"bind", "ro"}, "ls /home; ls /home/below", "below\n"},
		{"the directory", []string{"rbind", "ro"}, script, denied + "file\nwritten\n"},
		{"all below", []string{"rbind", "rro"}, script + "; true", denied + "file\ntouch: /home/below/new: Read-only file system\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &scope{T: t, ctx: s.ctx, count: i + 1}
			c := s.scripted(pod, bind(dir, "/home", test.options...), test.script)
			if got := c.written(); got != test.want {
				t.Errorf("the container wrote\n%s\nwant\n%s", got, test.want)
			}
		})
	}
}

// TestBindPropagation mounts on the host below directories that a running container has: it sees what is below a slave bind.
func TestBindPropagation(t *testing.T) {
	s := begin(t)
	dir := t.TempDir()
	s.must(os.Chmod(dir, 0o755))
	// What is mounted below it propagates only if it is a shared mount itself.
	s.must(unix.Mount(dir, dir, "", unix.MS_BIND, ""))
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s.must(unix.Mount("", dir, "", unix.MS_SHARED, ""))
	s.must(os.Mkdir(filepath.Join(dir, "later"), 0o755))

	c := s.create(nil, "sleep", "1000000")
	c.changeSpec(func(spec *specs.Spec) {
		bind(dir, "/home", "rbind", "rslave")(spec)
		bind(dir, "/tmp", "rbind", "rprivate")(spec)
	})
	c.createTask(&tasks.CreateTaskRequest{})
	c.startTask("")
	list := func(what, want string) {
		t.Helper()
		// The guest may go by what it knows for a second.
		got := c.exec(nil, "sh", "-c", `for i in $(seq 30); do
				list=$(ls /home/later /tmp/later)
				[ "$list" = "$0" ] && break
				sleep 0.1
			done; echo "$list"`, want)
		if strings.TrimSuffix(got.Stdout, "\n") != want {
			t.Errorf("%s: the container sees\n%s\nwant\n%s\n%v", what, got.Stdout, want, got.Err())
		}
	}
	list("before", "/home/later:\n\n/tmp/later:")
	s.mountTmpfs(filepath.Join(dir, "later"), "file")
	list("mounted", "/home/later:\nfile\n\n/tmp/later:")
	if got := c.exec(nil, "sh", "-c", "echo written >/home/later/file"); got.Err() != nil {
		t.Error(got.Err())
	}
	if text, err := os.ReadFile(filepath.Join(dir, "later", "file")); err != nil || string(text) != "written\n" {
		t.Errorf("the host reads %q: %v", text, err)
	}
}

// TestHostHooks looks at what the hooks that run on the host are told, and at which network namespace they find by it. Poststart
// runs after the start, as the OCI runtime specification has it; runc runs it when it creates the container.
func TestHostHooks(t *testing.T) {
	s := limpetOnly(t)
	dir := t.TempDir()
	hook := func(name string) []specs.Hook {
		script := `cat >"$DIR/$NAME"
			pid=$(sed -n 's/.*"pid":\([0-9]*\).*/\1/p' "$DIR/$NAME")
			[ -z "$pid" ] || readlink /proc/$pid/ns/net >"$DIR/$NAME.net"`
		return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{
			"NAME=" + name, "DIR=" + dir, "PATH=" + os.Getenv("PATH"),
		}}}
	}
	c := s.create([]string{"--annotation", "fruit=fig"}, "sleep", "1000000")
	c.changeSpec(func(spec *specs.Spec) {
		spec.Hooks = &specs.Hooks{
			//lint:ignore SA1019 deprecated in the specification, still used by tools
			Prestart: hook("prestart"), CreateRuntime: hook("createRuntime"), Poststart: hook("poststart"), Poststop: hook("poststop"),
		}
	})
	c.createTask(&tasks.CreateTaskRequest{})
	task, err := daemon.Tasks.Get(daemon.Context(s.ctx), &tasks.GetRequest{ContainerID: c.id})
	s.must(err)
	pid := int(task.Process.Pid)
	network, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	s.must(err)
	if host, err := os.Readlink("/proc/self/ns/net"); err != nil || host == network {
		t.Errorf("the container's network namespace is the host's (%s): %v", host, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "poststart")); err == nil {
		t.Error("poststart ran before the start")
	}
	c.startTask("")
	c.kill(unix.SIGKILL)
	c.wait("")
	c.deleteTask()
	for _, test := range []struct {
		name   string
		status specs.ContainerState
		pid    int
		net    string
	}{
		{"prestart", specs.StateCreating, pid, network},
		{"createRuntime", specs.StateCreating, pid, network},
		{"poststart", specs.StateRunning, pid, network},
		{"poststop", specs.StateStopped, 0, ""},
	} {
		text, err := os.ReadFile(filepath.Join(dir, test.name))
		s.must(err)
		var state specs.State
		s.must(json.Unmarshal(text, &state))
		if state.ID != c.id || state.Status != test.status || state.Pid != test.pid || state.Annotations["fruit"] != "fig" {
			t.Errorf("%s was told %s, want the pid %d", test.name, text, test.pid)
		}
		if got, _ := os.ReadFile(filepath.Join(dir, test.name+".net")); strings.TrimSpace(string(got)) != test.net {
			t.Errorf("%s found the network namespace %s, want %s", test.name, got, test.net)
		}
	}
}

// TestSpecRefused asks for what a virtual machine does not have. The error names it and the container, and nothing is left of it.
func TestSpecRefused(t *testing.T) {
	s := limpetOnly(t)
	first := s.sleeper()
	pod := first.pod()
	without := func(kind specs.LinuxNamespaceType) func(*specs.Spec) {
		return func(spec *specs.Spec) {
			spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
		}
	}
	for i, test := range []struct {
		name   string
		change func(*specs.Spec)
		words  []string
	}{
		{"host PID", without(specs.PIDNamespace), []string{"pid namespace"}},
		{"host IPC", without(specs.IPCNamespace), []string{"ipc namespace"}},
		{"PID namespace of the host", sharing(1, specs.PIDNamespace), []string{"/proc/1/ns/pid", "same VM"}},
		{"IPC namespace of the host", sharing(1, specs.IPCNamespace), []string{"/proc/1/ns/ipc", "same VM"}},
		{"shared mount", bind("/tmp", "/home", "rbind", "rshared"), []string{"/home", "rshared", "Bidirectional"}},
		{"device", func(spec *specs.Spec) {
			spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/watchdog", Type: "c", Major: 10, Minor: 130}}
		}, []string{"/dev/watchdog", "10:130"}},
		{"block device that is not there", func(spec *specs.Spec) {
			spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/data", Type: "b", Major: 259, Minor: 1 << 19}}
		}, []string{"/dev/data", "259:524288", "no such block device"}},
		{"source that is not there", bind("/nowhere/data", "/home", "bind"), []string{"/nowhere/data", "/home"}},
		{"hook that is not there", func(spec *specs.Spec) {
			spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/nowhere/hook"}}}
		}, []string{"/nowhere/hook"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &scope{T: t, ctx: s.ctx, count: i + 1}
			c := s.create(pod, "true")
			original := c.configuration()
			c.changeSpec(test.change)
			err := c.tryCreateTask(&tasks.CreateTaskRequest{})
			if err == nil {
				t.Fatal("the task was made")
			}
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("the error is of another class: %v", err)
			}
			wantError(t, err.Error(), append(test.words, c.id)...)
			c.reconfigure(original)
			if got := c.written(); got != "" {
				t.Errorf("afterwards the container wrote %q", got)
			}
		})
	}
	t.Run("hook of the guest that is not there", func(t *testing.T) {
		s := &scope{T: t, ctx: s.ctx, count: 100}
		c := s.create(pod, "true")
		c.changeSpec(func(spec *specs.Spec) {
			spec.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/nowhere/hook"}}}
		})
		c.createTask(&tasks.CreateTaskRequest{})
		_, err := daemon.Tasks.Start(daemon.Context(s.ctx), &tasks.StartRequest{ContainerID: c.id})
		if err == nil {
			t.Fatal("the task was started")
		}
		wantError(t, err.Error(), "/nowhere/hook", c.id)
		c.deleteTask()
	})
}
