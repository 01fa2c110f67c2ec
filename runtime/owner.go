package runtime

import "github.com/limpet-run/limpet/guest/protocol"

// owner tells whose anchor a process of the host is, as the guest calls it; empty: of nobody in the sandbox.
func (s *Sandbox) owner(pid int) string {
	if s.pod != nil && s.pod.PID() == pid {
		return protocol.PodNamespace
	}
	for _, container := range s.list() {
		if container.made() && container.anchor.PID() == pid {
			return protocol.ContainerNamespacePrefix + container.id
		}
	}
	return ""
}
