package vsock

import "github.com/limpet-run/limpet/hypervisor"

// Check tells whether the backend can be had on this host.
func Check(backend Backend, daemon string) hypervisor.Check {
	chosen, err := choose(backend, vhostDevice, daemon)
	if err != nil {
		return hypervisor.NewCheck("vsock", "", err)
	}
	found, err := find(chosen, daemon)
	return hypervisor.NewCheck("vsock", string(chosen)+" backend: "+found, err)
}

// find returns the path of what the backend needs.
func find(backend Backend, daemon string) (string, error) {
	if backend == BackendDaemon {
		return findDaemon(daemon)
	}
	vhost, err := openVhost()
	if err != nil {
		return "", err
	}
	return vhostDevice, vhost.Close()
}
