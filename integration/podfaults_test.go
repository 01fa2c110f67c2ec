package integration

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/limpet-run/limpet/integration/harness"
)

// wantStartFailure starts a container in the pod that cannot start, and removes it.
func (p pod) wantStartFailure(config *cri.ContainerConfig, words ...string) {
	p.Helper()
	_, err := p.Start(p.ctx, config)
	if err == nil {
		p.Errorf("container %s started", config.Metadata.Name)
		return
	}
	p.Log(err)
	wantError(p.T, err.Error(), words...)
}

// removeTwice removes the pod, and once more when it is gone.
func (p pod) removeTwice() {
	p.Helper()
	for range 2 {
		p.must(p.Remove(p.ctx))
	}
}

// TestPodCNIFails has the network's last plugin fail when the first one has made its interface. No sandbox is made then, in no mode.
func TestPodCNIFails(t *testing.T) {
	wantPodFailure(t, harness.HandlerBrokenNetwork, "network", "tuning", "net/no/such/key")
}

// TestPodManyInterfaces has a pod with more interfaces than a machine has room for.
func TestPodManyInterfaces(t *testing.T) {
	wantPodFailure(t, harness.HandlerCrowdedNetwork, "interfaces", "room for")
}

// wantPodFailure tests that no pod can be made with a handler of limpet's, and that nothing of it is left.
func wantPodFailure(t *testing.T, handler string, words ...string) {
	t.Helper()
	s := &podScope{limpetOnly(t), handler}
	made, err := daemon.RunPod(s.ctx, s.handler, s.podConfig())
	if err == nil {
		s.removedAtEnd(made)
		t.Fatal("the pod runs")
	}
	t.Log(err)
	wantError(t, err.Error(), words...)
	list, err := daemon.Pods.ListPodSandbox(s.ctx, &cri.ListPodSandboxRequest{})
	s.must(err)
	if len(list.Items) > 0 {
		t.Errorf("it is listed all the same: %v", list.Items)
	}
}

// TestPodNetnsGone removes the network namespace of a pod that runs. Its containers live on, and the pod goes as usual.
func TestPodNetnsGone(t *testing.T) {
	eachMode(t, func(s *podScope) {
		p := s.run(s.podConfig())
		first := p.sleeper("first")
		namespaces, err := filepath.Glob(daemon.PodNamespaces())
		s.must(err)
		if len(namespaces) != 1 {
			s.Fatalf("the pod has the network namespaces %q", namespaces)
		}
		s.must(unix.Unmount(namespaces[0], unix.MNT_DETACH))
		s.must(os.Remove(namespaces[0]))
		p.wantExec("here", first, "echo", "here")
		p.removeTwice()
	})
}

// TestPodBadMounts has containers with volumes that cannot be mounted. Each failure names the mount, and others in the pod live on.
func TestPodBadMounts(t *testing.T) {
	eachMode(t, func(s *podScope) {
		p := s.run(s.podConfig())
		neighbour := p.sleeper("neighbour")
		dir := s.TempDir()
		file, gone := filepath.Join(dir, "file"), filepath.Join(dir, "gone")
		s.must(os.WriteFile(file, nil, 0o644))
		s.must(os.Mkdir(gone, 0o755))

		for name, test := range map[string]struct{ from, to string }{
			"directory-on-file": {dir, "/etc/passwd"},
			"file-on-directory": {file, "/tmp"},
		} {
			config := harness.ContainerConfig(name, "true")
			config.Mounts = []*cri.Mount{volume(test.from, test.to, false)}
			p.wantStartFailure(config, strings.TrimPrefix(test.to, "/"), "directory")
		}

		// A volume that goes after the container is made and before it is started.
		config := harness.ContainerConfig("vanished", "true")
		config.Mounts = []*cri.Mount{volume(gone, "/volume", false)}
		container, err := p.Create(s.ctx, config)
		s.must(err)
		s.must(os.Remove(gone))
		_, err = daemon.Pods.StartContainer(s.ctx, &cri.StartContainerRequest{ContainerId: container})
		if err == nil {
			s.Fatal("a container without its volume started")
		}
		s.Log(err)
		wantError(s.T, err.Error(), gone, "no such file or directory")
		p.wantExec("here", neighbour, "echo", "here")
		p.removeTwice()
	})
}

// TestPodVolumeVanishes removes a volume's files and the volume while a container has it.
func TestPodVolumeVanishes(t *testing.T) {
	eachMode(t, func(s *podScope) {
		p := s.run(s.podConfig())
		dir := filepath.Join(s.TempDir(), "volume")
		s.must(os.Mkdir(dir, 0o755))
		config := harness.ContainerConfig("user", "sleep", "1000000")
		config.Mounts = []*cri.Mount{volume(dir, "/volume", false)}
		user := p.start(config)
		neighbour := p.sleeper("neighbour")
		s.must(os.RemoveAll(dir))
		for _, container := range []string{user, neighbour} {
			p.wantExec("here", container, "echo", "here")
		}
		p.removeTwice()
	})
}

// TestPodMachineDies ends a pod's machine while a container is made in it: the call fails soon, the other container is told to have
// exited, and the pod can be removed.
func TestPodMachineDies(t *testing.T) {
	eachLimpetMode(t, func(s *podScope) {
		p := s.run(s.podConfig())
		neighbour := p.sleeper("neighbour")
		late, err := p.Create(s.ctx, harness.ContainerConfig("late", "true"))
		s.must(err)
		machine, err := qemu()
		s.must(err)
		s.must(unix.Kill(machine.PID, unix.SIGSTOP)) // so that the container stays half made
		started := make(chan error, 1)
		go func() {
			_, err := daemon.Pods.StartContainer(s.ctx, &cri.StartContainerRequest{ContainerId: late})
			started <- err
		}()
		s.awaitPath(daemon.PodBundle(late))
		began := time.Now()
		s.must(unix.Kill(machine.PID, unix.SIGKILL))
		err = <-started
		s.prompt("the failure of the call", began)
		if err == nil {
			s.Fatal("a container started in a machine that is no more")
		}
		s.Log(err)
		wantError(s.T, err.Error(), "machine") // and not that the shim has gone
		if code := p.exited(neighbour); code != 255 {
			s.Errorf("the other container exited with %d, want 255", code)
		}
		answer, err := daemon.Pods.PodSandboxStatus(s.ctx, &cri.PodSandboxStatusRequest{PodSandboxId: p.ID})
		s.must(err)
		if answer.Status.State != cri.PodSandboxState_SANDBOX_NOTREADY {
			s.Errorf("the pod is %s", answer.Status.State)
		}
		p.removeTwice()
	})
}

// awaitPath waits until there is a file of that name.
func (s *podScope) awaitPath(path string) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, crashTimeout)
	defer cancel()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for {
		if _, err := os.Lstat(path); err == nil {
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			s.Fatalf("%s: %v", path, ctx.Err())
		}
	}
}

// TestPodPauseKilled kills the container that a pod begins with. The others live on until the pod is removed, and all goes then.
func TestPodPauseKilled(t *testing.T) {
	s := &podScope{limpetOnly(t), harness.HandlerPause}
	p := s.run(s.podConfig())
	container := p.sleeper("app")
	client := daemon.In(harness.PodNamespace)
	recorder := s.recordOf(client)
	_, err := client.Tasks.Kill(client.Context(s.ctx), &tasks.KillRequest{ContainerID: p.ID, Signal: uint32(unix.SIGKILL)})
	s.must(err)
	// The CRI, too, has heard of the exit then, and may have deleted the task: its code is to be had from the event alone.
	s.await(recorder, p.ID, "exit")
	events, err := recorder.Of(s.ctx, p.ID)
	s.must(err)
	want := "/tasks/exit " + p.ID + " 137"
	if !slices.ContainsFunc(events, func(e harness.Event) bool { return e.String() == want }) {
		t.Errorf("events of the pod:\n%s\nwant %s", harness.Lines(events), want)
	}
	p.wantExec("alive", container, "echo", "alive")
	p.removeTwice()
}
