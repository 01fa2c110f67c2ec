package integration

import (
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/limpet-run/limpet/integration/harness"
)

// wantNative checks that a sandbox's container was started by the guest's agent itself, and not by the OCI runtime that it has, too.
func (s *scope) wantNative(sandbox, container string) {
	s.Helper()
	result := s.limpet("logs", sandbox)
	s.must(result.Err())
	s.wantRow(result.Stdout, "start the container", "container="+container, "native=true")
}

// TestNativeStart starts the containers that people start.
func TestNativeStart(t *testing.T) {
	t.Run("ctr", func(t *testing.T) {
		s := limpetOnly(t)
		c := s.sleeper()
		s.wantNative(c.id, c.id)
	})
	t.Run("privileged", func(t *testing.T) {
		s := limpetOnly(t)
		c := s.sleeper("--privileged")
		s.wantNative(c.id, c.id)
	})
	t.Run("nerdctl", func(t *testing.T) {
		s := limpetOnly(t)
		id := s.box("native", nil, forever...)
		s.wantNative(id, id)
		s.expect(`^2$`, "exec", "native", "sed", "-n", `s/^Seccomp:\t//p`, "/proc/self/status")
	})
	t.Run("pod", func(t *testing.T) {
		eachLimpetMode(t, func(s *podScope) {
			p := s.run(s.podConfig())
			for name, profile := range map[string]cri.SecurityProfile_ProfileType{
				"plain": cri.SecurityProfile_Unconfined, "confined": cri.SecurityProfile_RuntimeDefault,
			} {
				config := harness.ContainerConfig(name, "sleep", "1000000")
				config.Linux.SecurityContext.Seccomp = &cri.SecurityProfile{ProfileType: profile}
				container := p.start(config)
				s.wantNative(p.ID, container)
				want := "0"
				if profile == cri.SecurityProfile_RuntimeDefault {
					want = "2"
				}
				s.wantExec(want, container, "sed", "-n", `s/^Seccomp:\t//p`, "/proc/self/status")
			}
		})
	})
}

// TestRehearsal has a machine wait for its first container: it uses the time.
func TestRehearsal(t *testing.T) {
	eachLimpetMode(t, func(s *podScope) {
		p := s.run(s.podConfig())
		follow := s.startLimpet("logs", "--follow", p.ID)
		for !strings.Contains(follow.line(), "the start of a container is rehearsed") {
		}
		follow.interrupt()
		s.wantExec("ready", p.sleeper("app"), "echo", "ready")
	})
}
