package integration

import (
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/limpet-run/limpet/integration/harness"
)

// TestPodProcesses looks whose processes a container sees: its own, all of the pod's where that shares them, or those of another
// container, as a container for debugging does.
func TestPodProcesses(t *testing.T) {
	eachMode(t, func(s *podScope) {
		p := s.run(s.podConfig())
		first := p.sleeper("first")
		s.wantSleepers(p, "own", &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}, "1")
		s.wantSleepers(p, "debugger", &cri.NamespaceOption{Pid: cri.NamespaceMode_TARGET, TargetId: first}, "2")

		config := s.podConfig()
		shared := &cri.NamespaceOption{Pid: cri.NamespaceMode_POD}
		config.Linux.SecurityContext.NamespaceOptions = shared
		q := s.run(config)
		s.wantSleepers(q, "one", shared, "1")
		s.wantSleepers(q, "two", shared, "2")
	})
}

// wantSleepers starts one more container that sleeps, and has it count those that it sees.
func (s *podScope) wantSleepers(p pod, name string, options *cri.NamespaceOption, want string) {
	s.Helper()
	config := harness.ContainerConfig(name, "sleep", "1000000")
	config.Linux.SecurityContext.NamespaceOptions = options
	s.wantExec(want, p.start(config), "sh", "-c", "ps -o args | grep -c '^sleep 1000000$'")
}
