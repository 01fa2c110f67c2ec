package hypervisor

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

const (
	intel = "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu vme vmx sse\n"
	amd   = "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu svm\n"
	guest = "processor\t: 0\nmodel name\t: vmx svm\nflags\t\t: fpu svm_lock avmx\nvmx flags\t: vnmi\n"
)

func TestResolveAccelerator(t *testing.T) {
	missing := os.ErrNotExist
	for _, test := range []struct {
		name    string
		choice  Accelerator
		kvm     error
		cpuinfo string
		want    Accelerator
		reason  string
		is      func(error) bool
	}{
		{"auto, Intel", AcceleratorAuto, nil, intel, AcceleratorKVM, "vmx", nil},
		{"auto, AMD", AcceleratorAuto, nil, amd, AcceleratorKVM, "svm", nil},
		{"auto, KVM that opens on a guest", AcceleratorAuto, nil, guest, AcceleratorTCG, "neither vmx nor svm", nil},
		{"auto, no KVM", AcceleratorAuto, missing, intel, AcceleratorTCG, "not exist", nil},
		{"auto, nothing known", AcceleratorAuto, nil, "", AcceleratorTCG, "neither", nil},
		{"kvm", AcceleratorKVM, nil, guest, AcceleratorKVM, "configured", nil},
		{"kvm that does not open", AcceleratorKVM, missing, intel, "", "", errdefs.IsFailedPrecondition},
		{"tcg", AcceleratorTCG, nil, intel, AcceleratorTCG, "configured", nil},
		{"unknown", "xen", nil, intel, "", "", errdefs.IsInvalidArgument},
	} {
		got, reason, err := ResolveAccelerator(test.choice, test.kvm, test.cpuinfo)
		if got != test.want || !strings.Contains(reason, test.reason) {
			t.Errorf("%s: got %q, %q", test.name, got, reason)
		}
		if (test.is == nil) != (err == nil) || test.is != nil && !test.is(err) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

func TestAdvise(t *testing.T) {
	fault := errors.New("agent not ready")
	for _, test := range []struct {
		accelerator Accelerator
		err         error
		says        []string
	}{
		{AcceleratorKVM, fault, []string{"accelerator kvm", "agent not ready", "hypervisor.accelerator", `"tcg"`, `"auto"`}},
		{AcceleratorKVM, nil, nil},
		{AcceleratorTCG, fault, nil},
		{AcceleratorTCG, nil, nil},
	} {
		got := test.accelerator.Advise(test.err)
		if !errors.Is(got, test.err) || test.says == nil && got != test.err {
			t.Errorf("%s, %v: got %v", test.accelerator, test.err, got)
		}
		for _, part := range test.says {
			if !strings.Contains(got.Error(), part) {
				t.Errorf("%s: %q lacks %q", test.accelerator, got, part)
			}
		}
	}
}

func TestParseAccelerator(t *testing.T) {
	for _, name := range []string{"auto", "kvm", "tcg"} {
		if got, err := ParseAccelerator(name); err != nil || string(got) != name {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for _, name := range []string{"", "KVM"} {
		if _, err := ParseAccelerator(name); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// TestResolveOnHost has a KVM that opens on a processor that could not run a guest: the decision and its reason are logged.
func TestResolveOnHost(t *testing.T) {
	dir := t.TempDir()
	host := Host{KVM: filepath.Join(dir, "kvm"), CPUInfo: filepath.Join(dir, "cpuinfo")}
	for path, text := range map[string]string{host.KVM: "", host.CPUInfo: guest} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var log strings.Builder
	got, err := host.Resolve(AcceleratorAuto, slog.New(slog.NewTextHandler(&log, nil)))
	if got != AcceleratorTCG || err != nil || !strings.Contains(log.String(), "neither vmx nor svm") {
		t.Errorf("got %q, %v; logged %q", got, err, log.String())
	}
	for choice, want := range map[Accelerator]Check{
		AcceleratorAuto: {OK: true, Detail: "neither vmx nor svm", Remedy: "nested virtualization"},
		AcceleratorTCG:  {OK: true, Detail: "tcg: configured"},
		AcceleratorKVM:  {OK: true, Detail: "kvm: configured"},
	} {
		check := host.CheckAccelerator(choice)
		if check.OK != want.OK || !strings.Contains(check.Detail, want.Detail) || !strings.Contains(check.Remedy, want.Remedy) ||
			(check.Remedy == "") != (want.Remedy == "") {
			t.Errorf("check of %s: %+v", choice, check)
		}
	}
	host.KVM = filepath.Join(dir, "none")
	if check := host.CheckAccelerator(AcceleratorKVM); check.OK || !strings.Contains(check.Detail, "auto or tcg") {
		t.Errorf("check without KVM: %+v", check)
	}
	if _, err := host.Resolve(AcceleratorKVM, slog.New(slog.DiscardHandler)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("forced kvm: %v", err)
	}
}
