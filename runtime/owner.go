package runtime

import (
	"maps"
	"slices"

	"github.com/limpet-run/limpet/guest/protocol"
)

// owner tells whose anchor a process of the host is, as the guest calls it; empty: of nobody in the sandbox.
func (s *Sandbox) owner(pid int) string {
	s.mu.Lock()
	containers := slices.Collect(maps.Values(s.containers))
	s.mu.Unlock()
	for _, container := range containers {
		if container.made() && container.anchor.PID() == pid {
			return protocol.ContainerNamespacePrefix + container.id
		}
	}
	return ""
}
