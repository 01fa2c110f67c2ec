package integration

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/limpet-run/limpet/integration/harness"
	"github.com/limpet-run/limpet/runtime/doctor"
)

// examination is what limpet doctor --json prints.
type examination struct {
	Healthy  bool
	Findings []doctor.Finding
}

// finding returns the finding of that name; one without a name if there is none.
func (e examination) finding(name string) doctor.Finding {
	for _, finding := range e.Findings {
		if finding.Name == name {
			return finding
		}
	}
	return doctor.Finding{}
}

// doctor runs limpet doctor with the run's configuration and these changes.
func (s *scope) doctor(changes map[string]any, flags ...string) harness.Result {
	s.Helper()
	s.configure(changes)
	args := append([]string{"doctor", "--config", s.config}, flags...)
	return harness.Run(exec.CommandContext(s.ctx, daemon.Build.Path("bin/limpet"), args...))
}

func TestDoctor(t *testing.T) {
	noKernel := map[string]any{"kernel": "/nowhere/vmlinux"}

	t.Run("healthy", func(t *testing.T) {
		s := limpetOnly(t)
		result := s.doctor(nil, "--json")
		s.must(result.Err())
		var got examination
		s.must(json.Unmarshal([]byte(result.Stdout), &got))
		if boot := got.finding("boot"); !got.Healthy || !boot.OK || boot.Seconds <= 0 {
			t.Errorf("got %s", result.Stdout)
		}
	})
	t.Run("healthy, as text", func(t *testing.T) {
		s := limpetOnly(t)
		result := s.doctor(nil)
		s.must(result.Err())
		if !strings.Contains(result.Stdout, "\nok      boot ") || strings.Contains(result.Stdout, "FAILED") {
			t.Errorf("got %s", result.Stdout)
		}
	})
	t.Run("healthy, in the root of a host that is mounted", func(t *testing.T) {
		s := limpetOnly(t)
		s.configure(nil)
		// As an installer in a container does it. The mount goes with its namespace.
		s.must(harness.Run(exec.CommandContext(s.ctx, "unshare", "--mount", "sh", "-c",
			`mount --rbind / "$0" && exec chroot "$0" "$@"`, t.TempDir(),
			daemon.Build.Path("bin/limpet"), "doctor", "--config", s.config)).Err())
	})
	t.Run("templates", func(t *testing.T) {
		s := limpetOnly(t)
		dir := filepath.Join(t.TempDir(), "templates")
		changes := map[string]any{"template": map[string]any{"enabled": true, "dir": dir}}
		for _, test := range []struct {
			mode           os.FileMode
			template, boot string // what is said
		}{
			{0, "the first sandbox makes it", "as a clone of template "},
			{0o700, "sandboxes are clones of ", "as a clone of template "},
			{0o755, "every sandbox boots", "but it booted"},
		} {
			if test.mode != 0 {
				s.must(os.Chmod(dir, test.mode))
			}
			result := s.doctor(changes, "--json")
			s.must(result.Err())
			var got examination
			s.must(json.Unmarshal([]byte(result.Stdout), &got))
			wantError(t, got.finding("template").Detail, test.template, dir)
			wantError(t, got.finding("boot").Detail, test.boot)
		}
	})
	t.Run("no kernel", func(t *testing.T) {
		s := limpetOnly(t)
		result := s.doctor(noKernel, "--json")
		var got examination
		s.must(json.Unmarshal([]byte(result.Stdout), &got))
		kernel := got.finding("kernel")
		if result.Code != 1 || got.Healthy || kernel.OK || got.finding("boot").Name != "" {
			t.Errorf("exit status %d: %s", result.Code, result.Stdout)
		}
		wantError(t, kernel.Detail, "/nowhere/vmlinux")
		wantError(t, kernel.Remedy, "make install", "kernel")
	})
	t.Run("no kernel, as text", func(t *testing.T) {
		s := limpetOnly(t)
		result := s.doctor(noKernel)
		if result.Code != 1 || result.Stderr != "" {
			t.Errorf("exit status %d: %s", result.Code, result.Stderr)
		}
		wantError(t, result.Stdout, "FAILED  kernel", "/nowhere/vmlinux", "make install")
	})
	t.Run("KVM that does not boot", func(t *testing.T) {
		s := limpetOnly(t)
		if hostBootsKVM(t) {
			t.Skip("KVM boots here")
		}
		result := s.doctor(map[string]any{"hypervisor": map[string]any{"accelerator": "kvm"}, "timeouts": map[string]any{"boot": "5s"}})
		if result.Code != 1 {
			t.Errorf("exit status %d", result.Code)
		}
		wantError(t, result.Stdout, "FAILED", "accelerator kvm", "tcg")
	})
}
