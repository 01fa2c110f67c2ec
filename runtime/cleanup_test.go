package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/hypervisor"
)

// abandonSandbox makes a sandbox with a container and a process of its machine, and leaves it as a killed shim does.
func abandonSandbox(t *testing.T) (w *world, bundle string, sleeper *exec.Cmd) {
	t.Helper()
	w = newWorld(t)
	image := t.TempDir()
	w.bundle = writeBundle(t, func(spec *specs.Spec) {
		spec.Linux.CgroupsPath = fmt.Sprintf("/limpet-abandoned-%d", os.Getpid())
		spec.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/bin/touch", Args: []string{"touch", filepath.Join(image, "poststop")}}}}
	})
	sandbox, err := newSandbox(t.Context(), w.options(t), w.platform)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sandbox.CreateContainer(t.Context(), ContainerOptions{ID: "c1", Bundle: w.bundle, Rootfs: []mount.Mount{
		{Type: "bind", Source: image, Options: []string{"bind"}},
	}}); err != nil {
		t.Fatal(err)
	}
	sleeper = exec.Command("sleep", "1000")
	sleeper.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := sandbox.cgroup.Start(sleeper); err != nil {
		t.Fatal(err)
	}
	process, err := hypervisor.NewProcess("sleeper", sleeper.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := sandbox.dir.update(func(record *record) { record.Machine = []hypervisor.Process{process} }); err != nil {
		t.Fatal(err)
	}
	sandbox.dir.lock.Close() // as the kernel does for a killed shim
	t.Cleanup(func() {
		if _, err := os.Stat(filepath.Join(image, "poststop")); err != nil {
			t.Errorf("the poststop hook did not run: %v", err)
		}
		nothingLeft(t, filepath.Join(w.bundle, "rootfs"))
		for _, directory := range sandbox.cgroup.Directories() {
			if _, err := os.Stat(directory); err == nil {
				t.Errorf("cgroup %s is left", directory)
			}
		}
	})
	w.Sandbox = sandbox
	return w, w.bundle, sleeper
}

// TestRemoveSandbox removes what a killed shim left, found by looking, with and without the bundle's link.
func TestRemoveSandbox(t *testing.T) {
	for name, withBundle := range map[string]bool{"with its bundle": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			w, bundle, sleeper := abandonSandbox(t)
			link := filepath.Join(bundle, stateLink)
			if !withBundle {
				if err := os.Remove(link); err != nil {
					t.Fatal(err)
				}
			}
			found, err := FindSandbox(w.state, "", "box")
			if err != nil {
				t.Fatal(err)
			}
			if err := RemoveSandbox(t.Context(), found.SandboxInfo, false); !errdefs.IsFailedPrecondition(err) {
				t.Errorf("its holder lives: %v", err)
			}
			found.Holder.StartTime++ // somebody else, who is gone
			for range 2 {
				if err := RemoveSandbox(t.Context(), found.SandboxInfo, false); err != nil {
					t.Error(err)
				}
			}
			killed(t, sleeper)
			if _, err := os.Lstat(link); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the bundle's link: %v", err)
			}
		})
	}
}

// TestRemoveSandboxForced kills the holder, while somebody else cleans up.
func TestRemoveSandboxForced(t *testing.T) {
	w, _, sleeper := abandonSandbox(t)
	found, err := FindSandbox(w.state, "", "box")
	if err != nil {
		t.Fatal(err)
	}
	holder := exec.Command("sleep", "1000")
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	if found.Holder, err = hypervisor.NewProcess("holder", holder.Process.Pid); err != nil {
		t.Fatal(err)
	}
	lock, err := lockState(found.Dir)
	if err != nil {
		t.Fatal(err)
	}
	removed := make(chan error)
	go func() { removed <- RemoveSandbox(t.Context(), found.SandboxInfo, true) }()
	killed(t, holder)
	select {
	case err := <-removed:
		t.Errorf("it does not wait for who cleans up: %v", err)
	default:
	}
	lock.Close()
	if err := <-removed; err != nil {
		t.Error(err)
	}
	killed(t, sleeper)
}

// killed checks that a child was killed.
func killed(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	_ = cmd.Wait()
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGKILL {
		t.Errorf("it ended with %v", cmd.ProcessState)
	}
}

func TestCleanup(t *testing.T) {
	w, bundle, sleeper := abandonSandbox(t)
	container, err := w.Container("c1")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Cleanup(t.Context(), bundle); err != nil {
			t.Fatal(err)
		}
	}
	killed(t, sleeper)
	wait(t, gone(container), "the anchor's end")
	if _, err := os.Lstat(filepath.Join(bundle, stateLink)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the link: %v", err)
	}
}

// gone is closed when a container's anchor has ended.
func gone(c *Container) <-chan struct{} {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for _, err := os.Stat(fmt.Sprintf("/proc/%d", c.Init().PID())); err == nil; {
			_, err = os.Stat(fmt.Sprintf("/proc/%d", c.Init().PID()))
		}
	}()
	return ended
}

// TestReclaim makes a sandbox where a killed shim left one of the same name.
func TestReclaim(t *testing.T) {
	w, _, sleeper := abandonSandbox(t)
	w.fakeMachine, w.fakeGuest = newFakeMachine(), newFakeGuest()
	again, err := newSandbox(t.Context(), w.options(t), w.platform)
	if err != nil {
		t.Fatal(err)
	}
	killed(t, sleeper)
	if err := again.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestCleanupOfAStranger records a process identifier that another process has got since.
func TestCleanupOfAStranger(t *testing.T) {
	process, err := DescribeProcess("self", os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	process.StartTime--
	for _, end := range []func(context.Context, HostProcess) error{EndProcess, endGroup} {
		if err := end(t.Context(), process); err != nil { // this test would not live on
			t.Error(err)
		}
	}
}

func TestCleanupBrokenRecord(t *testing.T) {
	bundle, state := t.TempDir(), t.TempDir()
	write(t, filepath.Join(state, recordFile), "{")
	if err := os.Symlink(state, filepath.Join(bundle, stateLink)); err != nil {
		t.Fatal(err)
	}
	if err := Cleanup(t.Context(), bundle); err == nil {
		t.Error("a broken record was taken")
	}
	if _, err := os.Stat(state); err != nil {
		t.Errorf("the directory: %v", err)
	}
}

// TestCleanupWhileTheShimLives leaves a sandbox alone that is still its shim's.
func TestCleanupWhileTheShimLives(t *testing.T) {
	w := newTestSandbox(t)
	container := w.run(t, IO{})
	if err := Cleanup(t.Context(), w.bundle); err != nil {
		t.Error(err)
	}
	if status := container.Init().Status(); status.State != StateRunning {
		t.Errorf("the container is %+v", status)
	}
	if _, err := os.Stat(w.dir.path); err != nil {
		t.Error(err)
	}
}

// TestCleanupOfNetwork removes the network that was made for a sandbox whose holder is gone.
func TestCleanupOfNetwork(t *testing.T) {
	w, bundle, _ := abandonSandbox(t)
	calls := makeTestNetwork(t, w.Sandbox)
	if err := Cleanup(t.Context(), bundle); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(calls); err != nil || string(text) != "ADD\nDEL\n" {
		t.Errorf("the plugin was asked for %q, %v", text, err)
	}
}
