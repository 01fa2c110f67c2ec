package qemu

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/hypervisor"
)

// TestMissing checks each need before anything is started.
func TestMissing(t *testing.T) {
	dir := t.TempDir()
	there := filepath.Join(dir, "there")
	if err := os.WriteFile(there, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	none := filepath.Join(dir, "none")
	good := hypervisor.Config{
		Name: "p1", Dir: dir, Kernel: there, Initrd: there, VCPUs: 1, MemoryMiB: 128, Accelerator: hypervisor.AcceleratorTCG,
	}
	options := Options{Path: there, Virtiofsd: there, Logger: slog.New(slog.DiscardHandler)}
	for _, test := range []struct {
		name   string
		change func(*hypervisor.Config, *Options)
		is     func(error) bool
		says   []string
	}{
		{"kernel", func(c *hypervisor.Config, _ *Options) { c.Kernel = none }, errdefs.IsNotFound, []string{"guest kernel", none, "make guest"}},
		{"kernel is a directory", func(c *hypervisor.Config, _ *Options) { c.Kernel = dir }, errdefs.IsInvalidArgument,
			[]string{"guest kernel", dir}},
		{"image", func(c *hypervisor.Config, _ *Options) { c.Initrd = none }, errdefs.IsNotFound, []string{"guest image", none, "make guest"}},
		{"QEMU", func(_ *hypervisor.Config, o *Options) { o.Path = none }, errdefs.IsNotFound, []string{"QEMU", none, "install"}},
		{"virtiofsd", func(_ *hypervisor.Config, o *Options) { o.Virtiofsd = none }, errdefs.IsNotFound, []string{"virtiofsd", none, "install"}},
		{"memory", func(c *hypervisor.Config, _ *Options) { c.MemoryMiB = 16 }, errdefs.IsInvalidArgument, []string{"16 MiB", "at least"}},
		{"CPUs", func(c *hypervisor.Config, _ *Options) { c.VCPUs = 0 }, errdefs.IsInvalidArgument, []string{"0 CPUs"}},
		{"KVM", func(c *hypervisor.Config, o *Options) {
			c.Accelerator, o.Host.KVM = hypervisor.AcceleratorKVM, none
		}, errdefs.IsFailedPrecondition, []string{"kvm", none, "tcg"}},
	} {
		config, options := good, options
		test.change(&config, &options)
		_, err := New(options).Boot(t.Context(), config)
		if !test.is(err) {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		for _, part := range append(test.says, "boot machine p1") {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q lacks %q", test.name, err, part)
			}
		}
	}
}

// TestBootError runs QEMUs that end before they speak QMP, or after the greeting.
func TestBootError(t *testing.T) {
	dir := t.TempDir()
	there := filepath.Join(dir, "there")
	kvm := hypervisor.Host{KVM: there, CPUInfo: there}
	if err := os.WriteFile(there, []byte("no kernel"), 0o700); err != nil {
		t.Fatal(err)
	}
	const advice = "hypervisor.accelerator"
	for _, test := range []struct {
		name, qemu  string
		accelerator hypervisor.Accelerator
		says        []string
		not         string
	}{
		{"error", "echo cannot set up guest memory >&2; exit 1", hypervisor.AcceleratorTCG,
			[]string{"exit status 1", "cannot set up guest memory"}, advice},
		{"abort under KVM", "echo failed to set MSR >&2; kill -ABRT $$", hypervisor.AcceleratorKVM,
			[]string{"accelerator kvm", "did not come up", "signal: aborted", "failed to set MSR", advice, `"tcg"`}, "QMP"},
		{"abort after the greeting", `echo '{"QMP": {}}' >&3; kill -ABRT $$`, hypervisor.AcceleratorKVM,
			[]string{"accelerator kvm", "did not come up", "signal: aborted", advice}, "QMP"},
	} {
		t.Run(test.name, func(t *testing.T) {
			qemu := filepath.Join(t.TempDir(), "qemu")
			if err := os.WriteFile(qemu, []byte("#!/bin/sh\n"+test.qemu+"\n"), 0o700); err != nil {
				t.Fatal(err)
			}
			config := hypervisor.Config{
				Name: "p1", Dir: dir, Kernel: there, Initrd: there, VCPUs: 1, MemoryMiB: 128, Accelerator: test.accelerator,
			}
			_, err := New(Options{Path: qemu, Virtiofsd: qemu, Host: kvm, Logger: slog.New(slog.DiscardHandler)}).Boot(t.Context(), config)
			if err == nil {
				t.Fatal("the machine booted")
			}
			for _, part := range append(test.says, "boot machine p1") {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q lacks %q", err, part)
				}
			}
			if strings.Contains(err.Error(), test.not) {
				t.Errorf("%q says %q", err, test.not)
			}
		})
	}
}

func TestExcerpt(t *testing.T) {
	many := strings.Repeat("line\n", 100)
	for _, test := range []struct{ name, console, want string }{
		{"empty", "", ""},
		{"short", "a\nb\n", "a\nb"},
		{"long", many + "end\n", strings.Repeat("line\n", consoleLines-1) + "end"},
		{"panic", "a\nKernel panic - not syncing: why\nCPU: 0\n", "Kernel panic - not syncing: why\nCPU: 0"},
		{"long panic", "a\nKernel panic\n" + many, "Kernel panic" + strings.Repeat("\nline", consoleLines-1)},
	} {
		if got := excerpt(test.console); got != test.want {
			t.Errorf("%s: got %q", test.name, got)
		}
	}
}
