// Package doctor finds out whether this host can run limpet's containers, and what to do where it cannot.
package doctor

import (
	"context"
	"time"

	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/hypervisor/qemu"
	"github.com/limpet-run/limpet/hypervisor/vsock"
	"github.com/limpet-run/limpet/runtime/config"
	"github.com/limpet-run/limpet/runtime/network"
)

// Finding is one line of the doctor's report.
type Finding struct {
	hypervisor.Check
	// Seconds is how long the look took.
	Seconds float64 `json:"seconds"`
}

// Healthy says whether a container could run.
func Healthy(findings []Finding) bool {
	for _, finding := range findings {
		if !finding.OK {
			return false
		}
	}
	return true
}

// Examine looks at every part by the configuration at path (see config.Load) and hands each finding to report as it is made. In
// the end a machine is booted to be sure, but only if nothing failed before: its error would say the same once more.
func Examine(ctx context.Context, path string, report func(Finding)) []Finding {
	var findings []Finding
	look := func(examine func() []hypervisor.Check) {
		start := time.Now()
		for _, check := range examine() {
			finding := Finding{Check: check, Seconds: time.Since(start).Seconds()}
			findings = append(findings, finding)
			report(finding)
		}
	}
	one := func(examine func() hypervisor.Check) {
		look(func() []hypervisor.Check { return []hypervisor.Check{examine()} })
	}

	var settings config.Config
	one(func() (check hypervisor.Check) {
		settings, check = checkConfig(path)
		return check
	})
	if !Healthy(findings) {
		return findings
	}
	one(func() hypervisor.Check {
		return hypervisor.Host{}.CheckAccelerator(hypervisor.Accelerator(settings.Hypervisor.Accelerator))
	})
	look(func() []hypervisor.Check { return newDriver(settings).Check(ctx) })
	one(func() hypervisor.Check {
		return vsock.Check(vsock.Backend(settings.Vsock.Backend), settings.Vsock.Daemon)
	})
	one(func() hypervisor.Check { return checkFile("kernel", settings.Kernel) })
	one(func() hypervisor.Check { return checkFile("image", settings.Image) })
	one(func() hypervisor.Check { return checkTools(settings.Tools) })
	one(func() hypervisor.Check { return checkStateDir(settings.StateDir) })
	one(func() hypervisor.Check { return checkEgress(settings.Egress.Restrict, network.ProbeGate) })
	one(checkShim)
	one(func() hypervisor.Check { return checkTemplates(settings) })
	one(func() hypervisor.Check { return checkPool(settings.StateDir) })
	if Healthy(findings) {
		one(func() hypervisor.Check { return checkBoot(ctx, settings) })
	}
	return findings
}

func newDriver(settings config.Config) *qemu.Driver {
	return qemu.New(qemu.Options{Path: settings.Hypervisor.Path, Virtiofsd: settings.Virtiofs.Daemon, Logger: quiet})
}
