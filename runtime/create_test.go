package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestCreate looks at what a container has on the host while it lives, and that all of it goes with it.
func TestCreate(t *testing.T) {
	w := newTestSandbox(t)
	image, data := t.TempDir(), t.TempDir()
	write(t, filepath.Join(image, "hello"), "from the image")
	write(t, filepath.Join(data, "file"), "data")
	bundle := writeBundle(t, func(spec *specs.Spec) {
		spec.Mounts = append(spec.Mounts,
			specs.Mount{Destination: "/data", Type: "bind", Source: data, Options: []string{"rbind", "ro"}},
			specs.Mount{Destination: "/file", Type: "bind", Source: filepath.Join(data, "file"), Options: []string{"bind"}})
	})
	container, err := w.CreateContainer(t.Context(), ContainerOptions{ID: "c1", Bundle: bundle, Rootfs: []mount.Mount{
		{Type: "bind", Source: image, Options: []string{"rbind", "rw"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	share := filepath.Join(w.dir.share(), "c1")
	if got := read(t, filepath.Join(share, "rootfs", "hello")); got != "from the image" {
		t.Errorf("rootfs: %q", got)
	}
	if got := read(t, filepath.Join(share, "mounts", "0", "file")); got != "data" {
		t.Errorf("directory: %q", got)
	}
	if got := read(t, filepath.Join(share, "mounts", "1")); got != "data" {
		t.Errorf("file: %q", got)
	}
	// A file comes without the directory that it lies in: what is beside it stays the host's.
	if info, err := os.Lstat(filepath.Join(share, "mounts", "1")); err != nil || !info.Mode().IsRegular() {
		t.Errorf("file: %v, %v", info, err)
	}
	if err := os.WriteFile(filepath.Join(share, "mounts", "0", "new"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("a write to a read-only mount: %v", err)
	}
	pid := container.Init().PID()
	if root, err := os.Readlink(fmt.Sprintf("/proc/%d/root", pid)); err != nil || root != filepath.Join(bundle, "rootfs") {
		t.Errorf("the anchor's root: %s, %v", root, err)
	}
	if prepared := got[protocol.Prepare](w.fakeGuest); len(prepared) != 1 ||
		prepared[0] != (protocol.Prepare{ContainerID: "c1", Rootfs: "c1/rootfs"}) {
		t.Errorf("prepared: %+v", prepared)
	}
	if left, err := readRecord(w.dir.path); err != nil || left.Containers["c1"].Anchor == nil || left.Containers["c1"].Anchor.PID != pid {
		t.Errorf("recorded: %+v, %v", left, err)
	}
	if status, err := container.Delete(t.Context()); err != nil || status.Code != 137 {
		t.Errorf("delete of a container that was not started: %+v, %v", status, err)
	}
	empty(t, w.dir.share())
	nothingLeft(t, filepath.Join(bundle, "rootfs"))
	if left, err := readRecord(w.dir.path); err != nil || len(left.Containers) > 0 {
		t.Errorf("recorded: %+v, %v", left, err)
	}
}

func TestCreateFails(t *testing.T) {
	refuse := errors.New("refused")
	for _, test := range []struct {
		name    string
		change  func(*specs.Spec)
		options ContainerOptions
		prepare error
		want    string
	}{
		{"identifier", nil, ContainerOptions{ID: "../x"}, nil, "../x"},
		{"host PID", func(spec *specs.Spec) { spec.Linux.Namespaces = spec.Linux.Namespaces[1:] }, ContainerOptions{ID: "c1"}, nil,
			"pid namespace"},
		{"no rootfs", func(spec *specs.Spec) { spec.Root.Path = "/missing" }, ContainerOptions{ID: "c1"}, nil, "/missing"},
		{"no program", func(spec *specs.Spec) { spec.Process.Args[0] = "missing" }, ContainerOptions{ID: "c1"}, nil, "missing"},
		{"bad rootfs", nil, ContainerOptions{ID: "c1", Rootfs: []mount.Mount{{Type: "ext4", Source: "/dev/missing"}}}, nil, "ext4"},
		{"second mount", nil, ContainerOptions{ID: "c1", Rootfs: []mount.Mount{
			{Type: "tmpfs", Source: "tmpfs"}, {Type: "nosuchfs", Source: "x"},
		}}, nil, "root file system"},
		{"no source", func(spec *specs.Spec) {
			spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/data", Type: "bind", Source: "/missing"})
		}, ContainerOptions{ID: "c1"}, nil, "mount on /data"},
		{"no network namespace", func(spec *specs.Spec) {
			spec.Linux.Namespaces[3].Path = "/missing"
		}, ContainerOptions{ID: "c1"}, nil, "/missing"},
		{"hook", func(spec *specs.Spec) {
			spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo no net >&2; exit 3"}}}}
		}, ContainerOptions{ID: "c1"}, nil, "no net"},
		{"guest", nil, ContainerOptions{ID: "c1"}, refuse, "refused"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newTestSandbox(t)
			w.fakeGuest.answer = func(_ context.Context, message protocol.HostMessage) (protocol.GuestMessage, error) {
				if _, ok := message.(protocol.Prepare); ok {
					return nil, test.prepare
				}
				return nil, nil
			}
			stdout := newBuffer()
			test.options.Bundle, test.options.IO.Stdout = writeBundle(t, test.change), stdout
			_, err := w.CreateContainer(t.Context(), test.options)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v", err)
			}
			wait(t, stdout.closed, "stdout closed")
			empty(t, w.dir.share())
			nothingLeft(t, filepath.Join(test.options.Bundle, "rootfs"))
			if _, err := w.Container(test.options.ID); !errdefs.IsNotFound(err) {
				t.Errorf("the container: %v", err)
			}
			test.prepare = nil
			test.options = ContainerOptions{ID: "c1", Bundle: w.bundle}
			if _, err := w.CreateContainer(t.Context(), test.options); err != nil {
				t.Errorf("another one of the name: %v", err)
			}
		})
	}
}

// TestHooks checks what each hook of the host is told, and that they run in order.
func TestHooks(t *testing.T) {
	w := newTestSandbox(t)
	out := filepath.Join(t.TempDir(), "out")
	hook := func(name string) []specs.Hook {
		return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", `printf '%s ' $NAME >> $OUT; cat >> $OUT; echo >> $OUT`},
			Env: []string{"NAME=" + name, "OUT=" + out, "PATH=" + os.Getenv("PATH")}}}
	}
	bundle := writeBundle(t, func(spec *specs.Spec) {
		spec.Annotations = map[string]string{"a": "b"}
		spec.Hooks = &specs.Hooks{
			//lint:ignore SA1019 deprecated in the specification, still used by tools
			Prestart: hook("prestart"), CreateRuntime: hook("createRuntime"), Poststart: hook("poststart"), Poststop: hook("poststop"),
		}
	})
	container, err := w.CreateContainer(t.Context(), ContainerOptions{ID: "c1", Bundle: bundle})
	if err != nil {
		t.Fatal(err)
	}
	pid := container.Init().PID()
	if err := container.Init().Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.exit(container.Init(), 0)
	waitExit(t, container.Init())
	if _, err := container.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(read(t, out)), "\n")
	want := []struct {
		name   string
		status specs.ContainerState
		pid    int
	}{
		{"prestart", specs.StateCreating, pid}, {"createRuntime", specs.StateCreating, pid}, {"poststart", specs.StateRunning, pid},
		{"poststop", specs.StateStopped, 0},
	}
	if len(lines) != len(want) {
		t.Fatalf("got %q", lines)
	}
	for i, line := range lines {
		name, text, _ := strings.Cut(line, " ")
		var state specs.State
		if err := json.Unmarshal([]byte(text), &state); err != nil {
			t.Fatal(err)
		}
		if name != want[i].name || state.Status != want[i].status || state.Pid != want[i].pid || state.ID != "c1" || state.Bundle != bundle ||
			state.Annotations["a"] != "b" {
			t.Errorf("%s was told %+v", name, state)
		}
	}
}

func TestHookTimeout(t *testing.T) {
	limit := 1
	err := runHooks(t.Context(), []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "60"}, Timeout: &limit}},
		specs.State{ID: "c1", Bundle: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "timeout of 1s") {
		t.Errorf("got %v", err)
	}
}

// TestFirstContainer makes a sandbox with its first container: what the host does for that does not wait for the machine.
func TestFirstContainer(t *testing.T) {
	w := newWorld(t)
	options := w.options(t)
	options.First = &ContainerOptions{ID: "c1", Bundle: w.bundle}
	sandbox, err := newSandbox(t.Context(), options, func(ctx context.Context, plan machinePlan, undo *undo) (started, error) {
		for ctx.Err() == nil { // the container's anchor is written down by others
			if record, err := readRecord(plan.dir.path); err != nil || record.Containers["c1"].Anchor != nil {
				break
			}
		}
		return w.platform(ctx, plan, undo)
	})
	if err != nil {
		t.Fatal(err)
	}
	first := sandbox.First()
	if first == nil || first.Init().Status().State != StateCreated {
		t.Fatalf("got %+v", first)
	}
	if _, err := sandbox.CreateContainer(t.Context(), *options.First); !errdefs.IsAlreadyExists(err) {
		t.Errorf("again: %v", err)
	}
	if prepared := got[protocol.Prepare](w.fakeGuest); len(prepared) != 1 || prepared[0].ContainerID != "c1" {
		t.Errorf("prepared %+v", prepared)
	}
	if err := sandbox.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestFirstContainerFails has a first container, or its machine, that cannot be made: nothing is left of either.
func TestFirstContainerFails(t *testing.T) {
	broken := errors.New("no machine today")
	for name, test := range map[string]struct {
		program  string
		platform func(w *world) platform
		want     string
	}{
		"no program": {"/nowhere", func(*world) platform {
			return func(ctx context.Context, _ machinePlan, _ *undo) (started, error) { // it takes for ever
				<-ctx.Done()
				return started{}, ctx.Err()
			}
		}, `create container c1: program "/nowhere" is not in its root file system`},
		"no machine": {"/proc/self/exe", func(*world) platform {
			return func(context.Context, machinePlan, *undo) (started, error) { return started{}, broken }
		}, "start sandbox box: no machine today"},
		"the guest refuses it": {"/proc/self/exe", func(w *world) platform {
			w.fakeGuest.answer = func(_ context.Context, message protocol.HostMessage) (protocol.GuestMessage, error) {
				if _, ok := message.(protocol.Prepare); ok {
					return nil, broken
				}
				return nil, nil
			}
			return w.platform
		}, "create container c1: prepare it in the guest: no machine today"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t) // which looks for what is left
			w.bundle = writeBundle(t, func(spec *specs.Spec) { spec.Process.Args = []string{test.program} })
			options, output := w.options(t), newBuffer()
			options.First = &ContainerOptions{ID: "c1", Bundle: w.bundle, IO: IO{Stdout: output}}
			_, err := newSandbox(t.Context(), options, test.platform(w))
			if err == nil || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
			wait(t, output.closed, "its output is closed")
		})
	}
}
