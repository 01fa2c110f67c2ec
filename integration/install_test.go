package integration

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/limpet-run/limpet/integration/harness"
)

// Where containerd's configuration and limpet's part of it are on a host.
const (
	containerdConfig = "etc/containerd/config.toml"
	containerdDropIn = "etc/containerd/conf.d/limpet.toml"
)

// installation is a test of limpet install. The host's root is the directory of a containerd of its own, which has not heard of
// limpet; limpet's files come from another root.
type installation struct {
	*scope
	d    *harness.Daemon
	from string
}

func newInstallation(t *testing.T) installation {
	t.Helper()
	s := limpetOnly(t)
	d, err := harness.Start(s.ctx, daemon.Build)
	s.must(err)
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
		defer cancel()
		if err := errors.Join(d.RemoveAll(ctx), d.Stop()); err != nil {
			s.Error(err)
		}
	})
	i := installation{s, d, t.TempDir()}
	i.forgetLimpet()
	for from, to := range map[string]string{
		"bin/containerd-shim-limpet-v2": "usr/local/bin", "bin/limpet": "usr/local/bin", "bin/vhost-device-vsock": "usr/local/bin",
		"vmlinux": "usr/lib/limpet", "initramfs": "usr/lib/limpet",
		"tools/limpet-images": "usr/lib/limpet/tools", "tools/mke2fs": "usr/lib/limpet/tools",
		"tools/busybox": "usr/lib/limpet/tools",
	} {
		i.copy(d.Build.Path(from), filepath.Join(i.from, to, filepath.Base(from)))
	}
	// The host's containerd, to be asked, and limpet's configuration, which says where sandboxes would be.
	i.copy(d.Build.Path("bin/containerd"), filepath.Join(d.Dir, "usr/local/bin/containerd"))
	i.write("etc/limpet/config.toml", "state_dir = '/"+filepath.Base(d.StateDir())+"'\n")
	return i
}

func (i installation) copy(from, to string) {
	i.Helper()
	text, err := os.ReadFile(from)
	i.must(errors.Join(err, os.MkdirAll(filepath.Dir(to), 0o755)))
	i.must(os.WriteFile(to, text, 0o755))
}

// write writes a file of the host.
func (i installation) write(path, text string) {
	i.Helper()
	path = filepath.Join(i.d.Dir, path)
	i.must(errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)))
}

// read reads a file of the host; empty if there is none.
func (i installation) read(path string) string {
	i.Helper()
	text, err := os.ReadFile(filepath.Join(i.d.Dir, path))
	if !errors.Is(err, fs.ErrNotExist) {
		i.must(err)
	}
	return string(text)
}

// forgetLimpet takes limpet's handlers out of containerd's configuration, which goes to where a host has it.
func (i installation) forgetLimpet() {
	i.Helper()
	var config map[string]any
	i.must(toml.Unmarshal([]byte(i.read("config.toml")), &config))
	plugins := config["plugins"].(map[string]any)
	runtimes := plugins["io.containerd.cri.v1.runtime"].(map[string]any)["containerd"].(map[string]any)["runtimes"].(map[string]any)
	delete(runtimes, harness.HandlerPause)
	delete(runtimes, harness.HandlerSandbox)
	text, err := toml.Marshal(config)
	i.must(err)
	i.write(containerdConfig, string(text))
	i.write("config.toml", fmt.Sprintf("version = 4\nimports = [%q]\n", containerdConfig))
	i.restart()
}

func (i installation) restart() {
	i.Helper()
	i.must(i.d.Kill())
	i.must(i.d.Restart(i.ctx))
}

// install runs limpet install on the host.
func (i installation) install(flags ...string) harness.Result {
	args := append([]string{"install", "--root", i.d.Dir, "--from", i.from, "--containerd-config", "/" + containerdConfig,
		"--address", "/" + filepath.Base(i.d.Address())}, flags...)
	return harness.Run(exec.CommandContext(i.ctx, i.d.Build.Path("bin/limpet"), args...))
}

// wantInstall runs limpet install, which has to do well and to say that.
func (i installation) wantInstall(says string, flags ...string) {
	i.Helper()
	result := i.install(flags...)
	i.must(result.Err())
	if !strings.Contains(result.Stdout, says) {
		i.Errorf("limpet install %q does not say %q:\n%s", flags, says, result.Stdout)
	}
}

// runPod runs a pod with a handler of the drop-in, and in it a container to its end.
func (i installation) runPod(during func()) {
	i.Helper()
	name := i.id()
	defer func() { i.must(i.d.PodCgroup(name).Remove()) }()
	pod, err := i.d.RunPod(i.ctx, harness.HandlerPause, i.d.PodConfig(name))
	i.must(err)
	defer func() { i.must(pod.Remove(i.ctx)) }()
	id, err := pod.Start(i.ctx, harness.ContainerConfig("app", "sh", "-c", "uname -r; exit 7"))
	i.must(err)
	status, err := i.d.AwaitState(i.ctx, id, cri.ContainerState_CONTAINER_EXITED)
	i.must(err)
	if status.ExitCode != 7 {
		i.Errorf("exit status %d", status.ExitCode)
	}
	during()
}

// TestInstall: containerd does not know limpet, is taught by limpet install, runs a pod, and forgets it again.
func TestInstall(t *testing.T) {
	i := newInstallation(t)
	before := i.read(containerdConfig)
	if _, err := i.d.RunPod(i.ctx, harness.HandlerPause, i.d.PodConfig(i.id())); err == nil {
		t.Fatal("a pod runs before the installation")
	}

	i.wantInstall("would   write /"+containerdDropIn, "--dry-run")
	if i.read(containerdDropIn) != "" || i.read("usr/lib/limpet/vmlinux") != "" {
		t.Error("a dry run writes files")
	}
	i.wantInstall("next    restart containerd", "--skip-doctor")
	if !strings.Contains(i.read(containerdDropIn), "\nversion = 4\n") || i.read(containerdConfig) == before {
		t.Errorf("got %s and %s", i.read(containerdConfig), i.read(containerdDropIn))
	}
	i.restart()
	i.wantInstall("kind: RuntimeClass", "--skip-doctor")
	i.wantInstall("ready   containerd", "--skip-doctor", "--restart") // there is nothing to do
	i.runPod(func() {
		result := i.install("--uninstall")
		if result.Code != 1 || i.read(containerdDropIn) == "" {
			t.Errorf("uninstalled beside a pod, exit status %d: %s", result.Code, result.Stderr)
		}
		wantError(t, result.Stderr, "sandbox")
	})

	i.wantInstall("remove  /usr/local/bin/containerd-shim-limpet-v2", "--uninstall")
	if i.read(containerdDropIn) != "" || i.read("usr/lib/limpet/vmlinux") != "" || i.read(containerdConfig) != before {
		t.Error("something is left of limpet")
	}
}

// TestInstallTakenBack has hosts on which limpet would not work: containerd's configuration stays as it is.
func TestInstallTakenBack(t *testing.T) {
	i := newInstallation(t)
	t.Run("the doctor finds no QEMU", func(t *testing.T) {
		result := i.install()
		if result.Code != 1 || i.read(containerdDropIn) != "" {
			t.Errorf("exit status %d: %s", result.Code, i.read(containerdDropIn))
		}
		wantError(t, result.Stdout, "FAILED  qemu")
		wantError(t, result.Stderr, "containerd's configuration is not touched")
	})
	t.Run("containerd reads something else", func(t *testing.T) {
		// Read after limpet's drop-in.
		i.write("etc/containerd/conf.d/z.toml", "version = 4\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.limpet]\n"+
			"runtime_type = 'io.containerd.runc.v2'\n")
		i.write(containerdConfig, "imports = ['conf.d/*.toml']\n"+i.read(containerdConfig))
		result := i.install("--skip-doctor")
		if result.Code != 1 || i.read(containerdDropIn) != "" {
			t.Errorf("exit status %d: %s", result.Code, i.read(containerdDropIn))
		}
		wantError(t, result.Stderr, `handler "limpet"`, "is as before")
	})
}
