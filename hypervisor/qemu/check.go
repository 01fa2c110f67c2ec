package qemu

import (
	"context"
	"fmt"

	"github.com/limpet-run/limpet/hypervisor"
)

// Check tells whether the programs that a machine consists of are there.
func (d *Driver) Check(ctx context.Context) []hypervisor.Check {
	qemu, err := findQEMU(d.options.Path)
	checks := []hypervisor.Check{hypervisor.NewCheck("qemu", qemu, err)}
	virtiofsd, kind, err := d.checkVirtiofsd(ctx)
	return append(checks, hypervisor.NewCheck("virtiofsd", fmt.Sprintf("%s, the %s one", virtiofsd, kind), err))
}

func (d *Driver) checkVirtiofsd(ctx context.Context) (string, virtiofsdKind, error) {
	path, err := findVirtiofsd(d.options.Virtiofsd)
	if err != nil {
		return "", 0, err
	}
	kind, err := detectVirtiofsd(ctx, path)
	return path, kind, err
}
