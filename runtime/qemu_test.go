package runtime

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/runtime/config"
)

// bootSandbox boots a machine with the kernel, the image and the vsock daemon of the directory that LIMPET_BUILD names.
func bootSandbox(t *testing.T, change func(*SandboxOptions)) (*world, error) {
	t.Helper()
	build := os.Getenv("LIMPET_BUILD")
	if build == "" {
		t.Skip("LIMPET_BUILD does not name a directory with a guest kernel and image")
	}
	w := newWorld(t)
	options := w.options(t)
	configureBuild(t, &options.Config, build)
	if change != nil {
		change(&options)
	}
	sandbox, err := NewSandbox(t.Context(), options)
	w.Sandbox = sandbox
	return w, err
}

// configureBuild has machines made of what is in the directory.
func configureBuild(t *testing.T, configuration *config.Config, build string) {
	configuration.Kernel, configuration.Image = filepath.Join(build, "vmlinux"), filepath.Join(build, "initramfs")
	configuration.Tools = filepath.Join(build, "tools")
	configuration.Vsock.Daemon = filepath.Join(build, "bin", "vhost-device-vsock")
	configuration.Template.Dir = t.TempDir()
	if err := os.Chmod(configuration.Template.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
}

// newRealSandbox is bootSandbox that must succeed, stopped at the test's end.
func newRealSandbox(t *testing.T) *world {
	t.Helper()
	w, err := bootSandbox(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	processes := w.machine.Processes()
	t.Cleanup(func() {
		if err := w.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		allEnded(t, processes)
	})
	return w
}

// allEnded checks that no process of a machine is left.
func allEnded(t *testing.T, processes []hypervisor.Process) {
	t.Helper()
	if len(processes) < 3 { // QEMU, the share's daemon, the vsock's
		t.Errorf("the machine had only %+v", processes)
	}
	for _, process := range processes {
		if now, err := hypervisor.NewProcess(process.Name, process.PID); err == nil && now == process {
			t.Errorf("%s lives", process.Name)
		}
	}
}

// busyboxBundle makes a bundle of a shell command.
func busyboxBundle(t *testing.T, args ...string) string {
	t.Helper()
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	bundle := writeBundle(t, func(spec *specs.Spec) {
		spec.Process.Args = args
		spec.Process.Env = []string{"PATH=/bin"}
		spec.Mounts = []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"}, {Destination: "/dev", Type: "tmpfs", Source: "tmpfs"},
		}
	})
	bin := filepath.Join(bundle, "rootfs", "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bin, "busybox"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "cat", "sleep", "uname"} {
		if err := os.Symlink("busybox", filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	return bundle
}

// TestVM runs containers in a real machine.
func TestVM(t *testing.T) {
	w := newRealSandbox(t)
	stdout, stderr := newBuffer(), newBuffer()
	container, err := w.CreateContainer(t.Context(), ContainerOptions{
		ID: "c1", Bundle: busyboxBundle(t, "sh", "-c", "cat; uname -s >&2; sleep 1000 & wait"),
		IO: IO{Stdin: io.NopCloser(strings.NewReader(strings.Repeat("limpet", 100_000))), Stdout: stdout, Stderr: stderr},
	})
	if err != nil {
		t.Fatal(err)
	}
	init := container.Init()
	if err := init.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		output := newBuffer()
		exec, err := container.Exec(t.Context(), ExecOptions{
			ID: "e1", Spec: []byte(`{"args": ["sh", "-c", "echo hello; exit 5"], "cwd": "/", "env": ["PATH=/bin"]}`), IO: IO{Stdout: output},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := exec.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if status := waitExit(t, exec); status.Code != 5 || output.String() != "hello\n" {
			t.Errorf("exec: %+v, %q", status, output)
		}
		if _, err := exec.Delete(t.Context()); err != nil {
			t.Error(err)
		}
	}
	missing, err := container.Exec(t.Context(), ExecOptions{ID: "e2", Spec: []byte(`{"args": ["/no/such"], "cwd": "/"}`),
		IO: IO{Stdout: newBuffer()}})
	if err != nil {
		t.Fatal(err)
	}
	if err := missing.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "/no/such") {
		t.Errorf("a missing program: %v", err)
	}
	if err := init.Kill(t.Context(), uint32(unix.SIGKILL), true); err != nil {
		t.Error(err)
	}
	if status := waitExit(t, init); status.Code != 137 {
		t.Errorf("exit: %+v", status)
	}
	wait(t, stdout.closed, "stdout closed")
	if !bytes.Equal(stdout.bytes.Bytes(), bytes.Repeat([]byte("limpet"), 100_000)) || stderr.String() != "Linux\n" {
		t.Errorf("stdout: %d bytes, stderr: %q", stdout.bytes.Len(), stderr)
	}
	if _, err := container.Delete(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestVMKilled kills QEMU.
func TestVMKilled(t *testing.T) {
	w := newRealSandbox(t)
	stdout := newBuffer()
	container, err := w.CreateContainer(t.Context(), ContainerOptions{ID: "c1", Bundle: busyboxBundle(t, "sleep", "1000"),
		IO: IO{Stdout: stdout}})
	if err != nil {
		t.Fatal(err)
	}
	if err := container.Init().Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(w.machine.Processes()[0].PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if status := waitExit(t, container.Init()); status.Code != 255 || status.Reason != "vm lost" {
		t.Errorf("exit: %+v", status)
	}
	wait(t, stdout.closed, "stdout closed")
	if _, err := container.Delete(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestVMFails starts machines that cannot come up.
func TestVMFails(t *testing.T) {
	notKernel := filepath.Join(t.TempDir(), "vmlinux")
	write(t, notKernel, "not a kernel")
	for _, test := range []struct {
		name   string
		change func(*SandboxOptions)
		want   string
	}{
		{"no kernel", func(o *SandboxOptions) { o.Config.Kernel = "/missing/vmlinux" }, "/missing/vmlinux"},
		{"not a kernel", func(o *SandboxOptions) { o.Config.Kernel = notKernel }, "qemu"},
		{"no QEMU", func(o *SandboxOptions) { o.Config.Hypervisor.Path = "/missing/qemu" }, "/missing/qemu"},
		{"no virtiofsd", func(o *SandboxOptions) { o.Config.Virtiofs.Daemon = "/missing/virtiofsd" }, "/missing/virtiofsd"},
		{"no vsock", func(o *SandboxOptions) { o.Config.Vsock.Daemon = "/missing/vsock" }, "/missing/vsock"},
		{"no agent", func(o *SandboxOptions) { o.Config.Image = notKernel }, "panic"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := bootSandbox(t, test.change); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v", err)
			} else {
				t.Log(err)
			}
		})
	}
}

// TestVMCleanup cleans up after a shim that was killed.
func TestVMCleanup(t *testing.T) {
	w, err := bootSandbox(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	processes := w.machine.Processes()
	container, err := w.CreateContainer(t.Context(), ContainerOptions{ID: "c1", Bundle: busyboxBundle(t, "sleep", "1000")})
	if err != nil {
		t.Fatal(err)
	}
	if err := container.Init().Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.dir.lock.Close() // as the kernel does for a killed shim
	if err := Cleanup(t.Context(), w.bundle); err != nil {
		t.Error(err)
	}
	waitExit(t, container.Init())                       // the killed shim's part of it: to be told that the machine is gone,
	if err := w.machine.Stop(t.Context()); err != nil { // and to take note of the ends of its children
		t.Error(err)
	}
	allEnded(t, processes)
	wait(t, gone(container), "the anchor's end")
}
