package integration

import (
	"archive/tar"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/limpet-run/limpet/integration/harness"
	"github.com/limpet-run/limpet/runtime/exitcode"
)

// TestRunImage runs commands of an image in a registry, on a host that is a network namespace of the test.
func TestRunImage(t *testing.T) {
	s := limpetOnly(t)
	host := s.netns("world")
	s.ip("-n %s link set lo up", host)
	s.ip("-n %s link add limpet0 up type bridge", host)
	s.ip("-n %s address add 10.9.0.1/24 dev limpet0", host)
	images := s.imageServer(host)
	s.nameServer(host)
	resolv, believed := filepath.Join(t.TempDir(), "resolv.conf"), filepath.Join(t.TempDir(), "believed")
	s.must(os.WriteFile(resolv, []byte("nameserver 10.9.0.1\n"), 0o644))
	s.must(os.WriteFile(believed, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: images.server.Certificate().Raw}), 0o644))
	s.configure(map[string]any{
		"network": map[string]any{
			"plugin_dirs": []string{daemon.Build.Path("bin/cni")}, "subnets": []string{"10.9.0.0/24"}, "leases_dir": t.TempDir(),
		},
		"guest_data": map[string]any{"resolv.conf": resolv, "ca-certificates.crt": believed},
	})
	image := images.push("app:1", s.layer(tar.Header{Name: "layered"}, []byte("from a layer\n")))
	run := func(args ...string) harness.Result {
		limpet := []string{"--net=/run/netns/" + host, daemon.Build.Path("bin/limpet"), "run", "--config", s.config}
		return harness.Run(exec.CommandContext(s.ctx, "nsenter", append(limpet, args...)...))
	}

	t.Run("without a network", func(t *testing.T) {
		shared := t.TempDir()
		result := run("-v", shared+":/shared", "--workdir", "/tmp", image, "--",
			"sh", "-c", "cat /layered; pwd; ip link | grep -c ether; echo written > /shared/file; touch /new; exit 6")
		if result.Code != 6 || result.Stdout != "from a layer\n/tmp\n0\n" {
			t.Errorf("exit status %d, %q, %s", result.Code, result.Stdout, result.Stderr)
		}
		if text, err := os.ReadFile(filepath.Join(shared, "file")); err != nil || string(text) != "written\n" {
			t.Errorf("got %q, %v", text, err)
		}
	})
	t.Run("with a network", func(t *testing.T) {
		fetch := []string{"sh", "-c", "nc -w 5 " + strings.Replace(images.address, ":", " ", 1) + " </dev/null"}
		result := run(append([]string{"--net", image, "--"}, fetch...)...)
		if result.Code != 0 {
			t.Errorf("exit status %d, %q, %s", result.Code, result.Stdout, result.Stderr)
		}
		result = run(append([]string{"--allow-host", "example.com", "--allow-cidr", "10.9.0.77/32", image, "--"}, fetch...)...)
		if result.Code != 1 {
			t.Errorf("what is not allowed was reached: %d, %q", result.Code, result.Stdout)
		}
		wantError(t, result.Stderr, "refused")
	})
	for _, test := range []struct {
		name  string
		args  []string
		code  int
		words []string
	}{
		{"a program that is not there", []string{image, "nothere"}, exitcode.NotFound, []string{"nothere"}},
		{"a program that cannot be executed", []string{image, "/etc"}, exitcode.NotExecutable, []string{"/etc"}},
		{"an image that is not there", []string{images.host + "/none:1", "true"}, exitcode.Failure, []string{images.host + "/none:1"}},
		{"another platform", []string{"--platform", "linux/s390x", image, "true"}, exitcode.Failure, []string{"linux/s390x"}},
		{"no image's name", []string{"A B", "true"}, exitcode.Failure, []string{"A B"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			result := run(test.args...)
			if result.Code != test.code || result.Stdout != "" {
				t.Errorf("exit status %d, %q", result.Code, result.Stdout)
			}
			wantError(t, result.Stderr, test.words...)
		})
	}
}

// TestRunArchive runs what images in files say.
func TestRunArchive(t *testing.T) {
	s := limpetOnly(t)
	image, err := mutate.Config(s.busybox(), v1.Config{
		Entrypoint: []string{"/bin/sh", "-c"}, Cmd: []string{`echo "$0 $A $(pwd) $(id -u):$(id -g)"`}, Env: []string{"A=a", "PATH=/bin"},
		WorkingDir: "/tmp", User: "5:6",
	})
	s.must(err)
	dir := t.TempDir()
	_, err = layout.Write(filepath.Join(dir, "layout"), mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: image}))
	s.must(err)
	s.must(tarball.WriteToFile(filepath.Join(dir, "docker.tar"), name.MustParseReference("app:1"), image))
	for _, source := range []string{"layout", "docker.tar"} {
		result := s.limpet("run", "-e", "A=b", filepath.Join(dir, source))
		if result.Code != 0 || strings.TrimSpace(result.Stdout) != "/bin/sh b /tmp 5:6" {
			t.Errorf("%s: exit status %d, %q, %s", source, result.Code, result.Stdout, result.Stderr)
		}
	}
	result := s.limpet("run", daemon.Build.Path("busybox.tar"), "--", "cat", "/etc/hostname")
	if result.Code != 0 || !strings.HasPrefix(result.Stdout, "run-") {
		t.Errorf("exit status %d, %q, %s", result.Code, result.Stdout, result.Stderr)
	}
	result = s.limpet("run", "/bin/busybox", "true")
	if result.Code != exitcode.Failure {
		t.Errorf("exit status %d", result.Code)
	}
	wantError(t, result.Stderr, "/bin/busybox", "tar")
}
