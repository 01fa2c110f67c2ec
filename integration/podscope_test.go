package integration

import (
	"context"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/limpet-run/limpet/integration/harness"
)

// podModes returns the runtime handlers under test by what they are called: containerd's modes of sandboxes, or another runtime.
func podModes(t *testing.T) map[string]string {
	t.Helper()
	switch runtime {
	case harness.Limpet:
		return map[string]string{"podsandbox": harness.HandlerPause, "shim": harness.HandlerSandbox}
	case harness.Runc:
		return map[string]string{"runc": harness.HandlerRunc}
	}
	t.Skipf("containerd has no runtime handler for %s", runtime)
	return nil
}

// eachMode runs a test once with each mode.
func eachMode(t *testing.T, test func(s *podScope)) {
	for mode, handler := range podModes(t) {
		t.Run(mode, func(t *testing.T) { test(&podScope{begin(t), handler}) })
	}
}

// eachLimpetMode does so with a test of what only limpet has.
func eachLimpetMode(t *testing.T, test func(s *podScope)) {
	if runtime != harness.Limpet {
		t.Skipf("%s has no virtual machine", runtime)
	}
	eachMode(t, test)
}

// podScope is a test of pods with one runtime handler.
type podScope struct {
	*scope
	handler string
}

// podConfig returns the configuration of a pod named after the test. The pod's cgroup is removed with the test.
func (s *podScope) podConfig() *cri.PodSandboxConfig {
	name := strings.ToLower(s.id() + "-" + s.handler)
	s.Cleanup(func() {
		if err := daemon.PodCgroup(name).Remove(); err != nil {
			s.Error(err)
		}
	})
	return daemon.PodConfig(name)
}

// pod is a pod of a test.
type pod struct {
	*podScope
	*harness.Pod
}

// run makes a pod with that configuration, which goes with the test.
func (s *podScope) run(config *cri.PodSandboxConfig) pod {
	s.Helper()
	made, err := daemon.RunPod(s.ctx, s.handler, config)
	s.must(err)
	return s.removedAtEnd(made)
}

// removedAtEnd removes the pod before its cgroup goes.
func (s *podScope) removedAtEnd(made *harness.Pod) pod {
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
		defer cancel()
		if err := made.Remove(ctx); err != nil {
			s.Error(err)
		}
	})
	return pod{s, made}
}

// start starts a container in the pod.
func (p pod) start(config *cri.ContainerConfig) string {
	p.Helper()
	id, err := p.Start(p.ctx, config)
	p.must(err)
	return id
}

// sleeper starts a container in the pod that does nothing until it is killed.
func (p pod) sleeper(name string) string {
	p.Helper()
	return p.start(harness.ContainerConfig(name, "sleep", "1000000"))
}

// exited waits for the end of a container and returns its exit code.
func (s *podScope) exited(container string) int32 {
	s.Helper()
	status, err := daemon.AwaitState(s.ctx, container, cri.ContainerState_CONTAINER_EXITED)
	s.must(err)
	return status.ExitCode
}

// execSync runs a command in a container, which has to exit with 0, and returns what it wrote, without the spaces around it.
func (s *podScope) execSync(container string, command ...string) string {
	s.Helper()
	answer, err := daemon.Pods.ExecSync(s.ctx, &cri.ExecSyncRequest{ContainerId: container, Cmd: command})
	s.must(err)
	if answer.ExitCode != 0 {
		s.Fatalf("%q exited with %d: %s%s", command, answer.ExitCode, answer.Stdout, answer.Stderr)
	}
	return strings.TrimSpace(string(answer.Stdout))
}

// wantExec runs a command in a container as execSync does and compares what it wrote.
func (s *podScope) wantExec(want, container string, command ...string) {
	s.Helper()
	if got := s.execSync(container, command...); got != want {
		s.Errorf("%q wrote %q, want %q", command, got, want)
	}
}

// state returns what CRI tells of a container.
func (s *podScope) state(container string) *cri.ContainerStatus {
	s.Helper()
	answer, err := daemon.Pods.ContainerStatus(s.ctx, &cri.ContainerStatusRequest{ContainerId: container})
	s.must(err)
	return answer.Status
}

// volume is a mount of a directory or file of the host.
func volume(host, container string, readOnly bool) *cri.Mount {
	return &cri.Mount{HostPath: host, ContainerPath: container, Readonly: readOnly}
}
