package hypervisor

import (
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// Accelerator is what runs the guest's instructions.
type Accelerator string

const (
	// AcceleratorAuto takes KVM where it can boot a stock kernel, else TCG.
	AcceleratorAuto Accelerator = "auto"
	// AcceleratorKVM is the processor itself.
	AcceleratorKVM Accelerator = "kvm"
	// AcceleratorTCG is QEMU's emulation: it works everywhere, slower.
	AcceleratorTCG Accelerator = "tcg"
)

// ParseAccelerator reads an accelerator's name (errdefs.ErrInvalidArgument).
func ParseAccelerator(name string) (Accelerator, error) {
	switch accelerator := Accelerator(name); accelerator {
	case AcceleratorAuto, AcceleratorKVM, AcceleratorTCG:
		return accelerator, nil
	}
	return "", fmt.Errorf("accelerator %q: not one of auto, kvm, tcg: %w", name, errdefs.ErrInvalidArgument)
}

// Advise adds the way out to the error of a machine that did not come up, if KVM may be the reason: that KVM opens does not say that
// guests boot on it. Any other accelerator's error is returned as it is, nil too.
func (a Accelerator) Advise(err error) error {
	if a != AcceleratorKVM || err == nil {
		return err
	}
	return fmt.Errorf("under accelerator kvm (if KVM does not boot guests on this host, set hypervisor.accelerator to \"tcg\", "+
		"or to \"auto\" if it is \"kvm\" now): %w", err)
}

// ResolveAccelerator decides between KVM and TCG, and gives the reason. kvm is the error of opening /dev/kvm, nil if it opened;
// cpuinfo is the text of /proc/cpuinfo. Auto takes KVM only if it opens and the processor shows vmx or svm as well: a host that is
// itself a guest can have a /dev/kvm on which only kernels made for it boot.
func ResolveAccelerator(choice Accelerator, kvm error, cpuinfo string) (Accelerator, string, error) {
	switch choice {
	case AcceleratorTCG:
		return AcceleratorTCG, "configured", nil
	case AcceleratorKVM:
		if kvm != nil {
			return "", "", fmt.Errorf("accelerator kvm: %w: enable virtualization and load the kvm module, or set the accelerator to "+
				"auto or tcg: %w", kvm, errdefs.ErrFailedPrecondition)
		}
		return AcceleratorKVM, "configured", nil
	case AcceleratorAuto:
		if kvm != nil {
			return AcceleratorTCG, "KVM does not open: " + kvm.Error(), nil
		}
		if flag := virtualizationFlag(cpuinfo); flag != "" {
			return AcceleratorKVM, "KVM opens and the processor has " + flag, nil
		}
		return AcceleratorTCG, "KVM opens, but the processor shows neither vmx nor svm", nil
	}
	_, err := ParseAccelerator(string(choice))
	return "", "", err
}

// virtualizationFlag returns the processor flag that stands for hardware virtualization: vmx (Intel), svm (AMD), or "".
func virtualizationFlag(cpuinfo string) string {
	for line := range strings.Lines(cpuinfo) {
		name, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(name) != "flags" {
			continue
		}
		flags := strings.Fields(value)
		for _, flag := range []string{"vmx", "svm"} {
			if slices.Contains(flags, flag) {
				return flag
			}
		}
	}
	return ""
}

// Host is where the facts for the choice of an accelerator are found. Its zero value is this host.
type Host struct {
	KVM     string // instead of /dev/kvm
	CPUInfo string // instead of /proc/cpuinfo
}

// Resolve looks at the host, decides as ResolveAccelerator does, and logs decision and reason.
func (h Host) Resolve(choice Accelerator, logger *slog.Logger) (Accelerator, error) {
	accelerator, reason, err := h.decide(choice)
	if err != nil {
		return "", err
	}
	logger.Info("accelerator chosen", "accelerator", accelerator, "configured", choice, "reason", reason)
	return accelerator, nil
}

func (h Host) decide(choice Accelerator) (Accelerator, string, error) {
	kvm := opens(orDefault(h.KVM, "/dev/kvm"))
	cpuinfo, err := os.ReadFile(orDefault(h.CPUInfo, "/proc/cpuinfo"))
	if err != nil {
		return "", "", fmt.Errorf("look for the processor's virtualization: %w", err)
	}
	return ResolveAccelerator(choice, kvm, string(cpuinfo))
}

func opens(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return file.Close()
}

func orDefault(path, otherwise string) string {
	if path == "" {
		return otherwise
	}
	return path
}
