package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"golang.org/x/sys/unix"
)

// wantError checks that an error mentions each of the words: the thing, the reason, the way out.
func wantError(t *testing.T, text string, words ...string) {
	t.Helper()
	if text == "" {
		t.Error("there is no error")
	}
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("the error does not say %q: %s", word, text)
		}
	}
}

// wantFailure runs a container that cannot start.
func (s *scope) wantFailure(flags []string, words ...string) {
	s.Helper()
	result := s.run(flags, "true")
	if result.Code == 0 {
		s.Error("the container ran")
	}
	wantError(s.T, result.Stderr, words...)
}

// TestBadConfiguration has a configuration, or a host, with which no sandbox can start.
func TestBadConfiguration(t *testing.T) {
	tests := []struct {
		name    string
		changes map[string]any
		words   []string
	}{
		{"no kernel", map[string]any{"kernel": "/nowhere/vmlinux"}, []string{"kernel", "/nowhere/vmlinux", "make guest"}},
		{"no image", map[string]any{"image": "/nowhere/image"}, []string{"image", "/nowhere/image", "make guest"}},
		{"kernel is a directory", map[string]any{"kernel": "/etc"}, []string{"kernel", "/etc"}},
		{"no QEMU", map[string]any{"hypervisor": map[string]any{"path": "/nowhere/qemu"}},
			[]string{"/nowhere/qemu", "install", "configuration"}},
		{"no virtiofsd", map[string]any{"virtiofs": map[string]any{"daemon": "/nowhere/virtiofsd"}},
			[]string{"/nowhere/virtiofsd", "install", "configuration"}},
		{"no vsock daemon", map[string]any{"vsock": map[string]any{"backend": "daemon", "daemon": "/nowhere/vsock"}},
			[]string{"/nowhere/vsock", "install", "configuration"}},
		{"unknown key", map[string]any{"vm": map[string]any{"memroy": 256}}, []string{"vm.memroy", "limpet.toml"}},
		{"too little memory", map[string]any{"vm": map[string]any{"memory_mib": 64}}, []string{"memory_mib", "64", "at least"}},
		{"unknown accelerator", map[string]any{"hypervisor": map[string]any{"accelerator": "xen"}}, []string{"accelerator", "xen", "kvm"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := limpetOnly(t)
			s.configure(test.changes)
			s.wantFailure(nil, test.words...)
		})
	}
}

func TestBadConfigurationPath(t *testing.T) {
	s := limpetOnly(t)
	s.config = "/nowhere/limpet.toml"
	s.wantFailure(nil, "/nowhere/limpet.toml")
}

func TestBadAnnotation(t *testing.T) {
	for _, test := range []struct {
		annotation string
		words      []string
	}{
		{"io.limpet.memory=16", []string{"io.limpet.memory", "16", "at least"}},
		{"io.limpet.memory=much", []string{"io.limpet.memory", "much"}},
		{"io.limpet.kernel=/etc/passwd", []string{"io.limpet.kernel"}},
	} {
		t.Run(test.annotation, func(t *testing.T) {
			limpetOnly(t).wantFailure([]string{"--annotation", test.annotation}, test.words...)
		})
	}
}

// TestKernelVsockMissing asks for the kernel's vsock on a host without it.
func TestKernelVsockMissing(t *testing.T) {
	s := limpetOnly(t)
	s.configure(map[string]any{"vsock": map[string]any{"backend": "kernel"}})
	if _, err := os.Stat("/dev/vhost-vsock"); err == nil {
		s.must(s.run(nil, "true").Err())
		return
	}
	s.wantFailure(nil, "/dev/vhost-vsock", "backend", "daemon")
}

// hostBootsKVM reports whether KVM opens and the processor shows that it is for stock kernels, too.
func hostBootsKVM(t *testing.T) bool {
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	kvm.Close()
	cpuinfo, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(string(cpuinfo))
	return slices.Contains(words, "vmx") || slices.Contains(words, "svm")
}

// TestForcedKVM asks for KVM where it does not boot. A host on which it does has to run the container.
func TestForcedKVM(t *testing.T) {
	s := limpetOnly(t)
	s.configure(map[string]any{
		"hypervisor": map[string]any{"accelerator": "kvm"},
		"timeouts":   map[string]any{"boot": "5s"},
	})
	if hostBootsKVM(t) {
		s.must(s.run(nil, "true").Err())
		return
	}
	s.wantFailure(nil, "under accelerator kvm", "hypervisor.accelerator", "tcg")
}

// TestAccelerator checks that the choice is right for this host, and that the log gives it with the reason.
func TestAccelerator(t *testing.T) {
	s := limpetOnly(t)
	before := len(daemon.Log())
	s.must(s.run(nil, "true").Err())
	want := "accelerator=tcg"
	if hostBootsKVM(t) {
		want = "accelerator=kvm"
	}
	for line := range strings.Lines(daemon.Log()[before:]) {
		if strings.Contains(line, want) && strings.Contains(line, "reason=") {
			return
		}
	}
	t.Errorf("no line of the log says %q with its reason", want)
}

// TestSilentGuest boots an image whose init never says anything. The error comes at the deadline, with the guest's last words.
func TestSilentGuest(t *testing.T) {
	s := limpetOnly(t)
	image, err := daemon.Build.GuestImage(s.ctx, t.TempDir())
	s.must(err)
	s.configure(map[string]any{"image": image, "timeouts": map[string]any{"boot": "4s"}})
	began := time.Now()
	s.wantFailure(nil, "agent", "4s", "timeouts.boot")
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("the error came after %s", took)
	}
}

// TestFullStateDirectory has no space for the sandbox's state.
func TestFullStateDirectory(t *testing.T) {
	s := limpetOnly(t)
	dir := t.TempDir()
	s.must(unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4k"))
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	s.must(os.WriteFile(filepath.Join(dir, "full"), make([]byte, 4096), 0o600))
	s.configure(map[string]any{"state_dir": dir})
	s.wantFailure(nil, dir, "no space left", "state_dir")
	entries, err := os.ReadDir(dir)
	s.must(err)
	if len(entries) != 1 {
		t.Errorf("left in the state directory: %v", entries)
	}
}

func TestMissingCommand(t *testing.T) {
	s := begin(t)
	result := s.run(nil, "no-such-command")
	if result.Code == 0 {
		t.Error("the container ran")
	}
	wantError(t, result.Stderr, "no-such-command")
}

func TestBadRootfs(t *testing.T) {
	for _, test := range []struct {
		name  string
		mount *types.Mount
		words []string
	}{
		{"no source", &types.Mount{Type: "bind", Source: "/nowhere/rootfs", Options: []string{"rbind"}}, []string{"/nowhere/rootfs"}},
		{"no lower directory", &types.Mount{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=/nowhere/a:/nowhere/b"}},
			[]string{"overlay"}},
		{"unknown type", &types.Mount{Type: "nosuchfs", Source: "none"}, []string{"nosuchfs"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := begin(t)
			c := s.create(nil, "true")
			err := c.tryCreateTask(&tasks.CreateTaskRequest{Rootfs: []*types.Mount{test.mount}})
			if err == nil {
				t.Fatal("the task was made")
			}
			wantError(t, err.Error(), test.words...)
		})
	}
}
