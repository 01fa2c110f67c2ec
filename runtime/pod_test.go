package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/runtime/oci"
)

// pauseBundle is the bundle of a pod's pause container in a network namespace.
func pauseBundle(t *testing.T, netns string) string {
	return writeBundle(t, func(spec *specs.Spec) {
		joined(netns)(spec)
		spec.Annotations = map[string]string{
			"io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri.sandbox-memory": "536870912",
		}
	})
}

// newTestPod makes a pod, and keeps what its machine is made after.
func newTestPod(t *testing.T, netns string) (*world, *machinePlan) {
	t.Helper()
	w := newWorld(t)
	w.bundle = pauseBundle(t, netns)
	var plan machinePlan
	sandbox, err := newSandbox(t.Context(), w.options(t), func(ctx context.Context, given machinePlan, undo *undo) (started, error) {
		plan = given
		return w.platform(ctx, given, undo)
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Sandbox = sandbox
	t.Cleanup(func() {
		if err := sandbox.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return w, &plan
}

func waitPod(t *testing.T, pod *Pod) ExitStatus {
	t.Helper()
	wait(t, pod.exited, "the pod's end")
	status, err := pod.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return status
}

// TestPod makes a pod: its network is there before the machine, its pause container lives and ends without a process in the guest, and
// its containers outlive that.
func TestPod(t *testing.T) {
	needRoot(t)
	path := podNetwork(t)
	w, plan := newTestPod(t, path)
	if len(plan.nics) != 1 || plan.nics[0].MAC.String() != "02:00:00:00:00:07" || plan.frame.memory < 96+512 {
		t.Errorf("the machine was made after %+v", plan)
	}
	if told := got[protocol.Network](w.fakeGuest); len(told) != 1 || told[0].Interfaces[0].Name != "eth0" || len(told[0].Sysctls) != 1 {
		t.Errorf("the guest was told %+v", told)
	}
	pod := w.Pod()
	own, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", pod.PID()))
	given, givenErr := os.Stat(path)
	if err != nil || givenErr != nil || !os.SameFile(own, given) {
		t.Errorf("the anchor is in another network namespace: %v, %v", err, givenErr)
	}
	empty(t, fmt.Sprintf("/proc/%d/root", pod.PID()))

	output := newBuffer()
	if err := pod.CreatePause(ContainerOptions{ID: w.id, IO: IO{Stdout: output}}); err != nil {
		t.Fatal(err)
	}
	if err := pod.CreatePause(ContainerOptions{ID: w.id}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a second pause container: %v", err)
	}
	if status := pod.Status(); status.State != StateCreated || status.PID != pod.PID() {
		t.Errorf("it is %+v", status)
	}
	if err := pod.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := pod.Start(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a second start: %v", err)
	}
	if _, err := pod.Delete(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("deleted while it runs: %v", err)
	}
	for _, err := range []error{
		pod.Exec(t.Context(), ExecOptions{}), pod.Pause(t.Context()), pod.Resume(t.Context()), pod.Update(t.Context(), nil),
	} {
		if !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "pause container of pod box") {
			t.Errorf("got %v", err)
		}
	}

	w.bundle = writeBundle(t, joined(fmt.Sprintf("/proc/%d/ns/net", pod.PID())))
	container := w.run(t, IO{})
	if err := pod.Kill(t.Context(), uint32(syscall.SIGUSR1), false); err != nil || pod.Status().State != StateRunning {
		t.Errorf("a signal that a pause container survives: %v", err)
	}
	if err := pod.Kill(t.Context(), uint32(syscall.SIGKILL), false); err != nil {
		t.Error(err)
	}
	if status := waitPod(t, pod); status.Code != 137 {
		t.Errorf("it ended with %+v", status)
	}
	wait(t, output.closed, "its output ends")
	if err := pod.Kill(t.Context(), uint32(syscall.SIGKILL), false); !errdefs.IsNotFound(err) {
		t.Errorf("killed again: %v", err)
	}
	if status := container.Init().Status(); status.State != StateRunning {
		t.Errorf("the container is %+v", status)
	}
	if pids := pod.Pids(); len(pids) != 1 {
		t.Errorf("pids %v", pids)
	}
	if exit, err := pod.Delete(t.Context()); err != nil || exit.Code != 137 {
		t.Errorf("deleted: %+v, %v", exit, err)
	}
	if _, err := pod.Delete(t.Context()); !errdefs.IsNotFound(err) {
		t.Errorf("deleted again: %v", err)
	}
	if len(got[protocol.Prepare](w.fakeGuest)) != 1 || len(got[protocol.Network](w.fakeGuest)) != 1 {
		t.Error("the guest knows of the pause container")
	}
	if err := w.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if shown := inNetwork(t, path, redirected+"; ip -o link show"); strings.Contains(shown, "ingress") {
		t.Errorf("left: %s", shown)
	}
}

// TestPodEnds ends pods in other ways than by Kill.
func TestPodEnds(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(*world) error
		want uint32
	}{
		{"VM lost", func(w *world) error { w.fakeMachine.end(errors.New("crash")); return nil }, 255},
		{"anchor killed", func(w *world) error { return syscall.Kill(w.Pod().PID(), syscall.SIGKILL) }, 137},
	} {
		t.Run(test.name, func(t *testing.T) {
			needRoot(t)
			w, _ := newTestPod(t, podNetwork(t))
			if err := w.Pod().Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := test.end(w); err != nil {
				t.Fatal(err)
			}
			if status := waitPod(t, w.Pod()); status.Code != test.want {
				t.Errorf("it ended with %+v", status)
			}
			if _, err := w.Pod().Delete(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestPodFails cannot make pods: everything is undone.
func TestPodFails(t *testing.T) {
	needRoot(t)
	path := podNetwork(t)
	gone := filepath.Join(t.TempDir(), "gone")
	crowded := podNetwork(t)
	inNetwork(t, crowded, `for i in $(seq 15); do ip link add a$i up type veth peer name b$i && ip link set b$i up; done`)
	for _, test := range []struct {
		name, netns string
		answer      func(context.Context, protocol.HostMessage) (protocol.GuestMessage, error)
		want        string
	}{
		{"netns gone", gone, nil, gone},
		{"no room", crowded, nil, "has 31 interfaces"},
		{"the guest refuses", path, func(_ context.Context, message protocol.HostMessage) (protocol.GuestMessage, error) {
			if _, ok := message.(protocol.Network); ok {
				return nil, errors.New("no such card")
			}
			return nil, nil
		}, "no such card"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			w.bundle = pauseBundle(t, test.netns)
			w.fakeGuest.answer = test.answer
			_, err := newSandbox(t.Context(), w.options(t), w.platform)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v", err)
			}
		})
	}
	if shown := inNetwork(t, path, redirected+"; ip -o link show"); strings.Contains(shown, "ingress") || strings.Contains(shown, "limpet") {
		t.Errorf("left: %s", shown)
	}
}

// TestPodCleanup ends a pod by its record alone.
func TestPodCleanup(t *testing.T) {
	needRoot(t)
	path := podNetwork(t)
	w, _ := newTestPod(t, path)
	left, err := readRecord(w.dir.path)
	if err != nil {
		t.Fatal(err)
	}
	if err := cleanupNamespace(t.Context(), left.Pod.Anchor, left.Pod.Network); err != nil {
		t.Error(err)
	}
	if status := waitPod(t, w.Pod()); status.Code != 137 {
		t.Errorf("the anchor lives: %+v", status)
	}
	if shown := inNetwork(t, path, redirected); shown != "" {
		t.Errorf("left: %s", shown)
	}
}

// TestPodGiven makes a pod whose bundle has no configuration, with a network namespace of its own.
func TestPodGiven(t *testing.T) {
	w := newWorld(t)
	w.bundle = t.TempDir()
	options := w.options(t)
	options.Pod = &oci.Pod{NewNetNS: true}
	sandbox, err := newSandbox(t.Context(), options, w.platform)
	if err != nil {
		t.Fatal(err)
	}
	if told := got[protocol.Network](w.fakeGuest); len(told) > 0 {
		t.Errorf("the guest was told %+v", told)
	}
	if err := sandbox.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if status := waitPod(t, sandbox.Pod()); status.Code != 255 {
		t.Errorf("it ended with %+v", status)
	}
}

// TestPodLostDuringCreate ends the machine while a container is being created: the creation fails by what has happened, its part on the
// host is undone, and the pod and its other container end.
func TestPodLostDuringCreate(t *testing.T) {
	needRoot(t)
	w, _ := newTestPod(t, podNetwork(t))
	pod := w.Pod()
	if err := pod.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.bundle = writeBundle(t, joined(fmt.Sprintf("/proc/%d/ns/net", pod.PID())))
	other := w.run(t, IO{})
	w.fakeGuest.answer = func(ctx context.Context, message protocol.HostMessage) (protocol.GuestMessage, error) {
		if _, ok := message.(protocol.Prepare); !ok {
			return nil, nil
		}
		w.fakeMachine.end(errors.New("killed"))
		select {
		case <-w.lost:
			return nil, errdefs.ErrUnavailable
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	_, err := w.CreateContainer(t.Context(), ContainerOptions{ID: "c2", Bundle: w.bundle})
	if !errors.Is(err, errVMLost) || !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "killed") {
		t.Errorf("created: %v", err)
	}
	if _, err := os.Stat(filepath.Join(w.dir.share(), "c2")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its share: %v", err)
	}
	if status := waitPod(t, pod); status.Code != 255 {
		t.Errorf("the pod ended with %+v", status)
	}
	if status := waitExit(t, other.Init()); status.Code != 255 {
		t.Errorf("the other container ended with %+v", status)
	}
	if _, err := w.CreateContainer(t.Context(), ContainerOptions{ID: "c3", Bundle: w.bundle}); !errdefs.IsUnavailable(err) {
		t.Errorf("a container after the end: %v", err)
	}
	if _, err := other.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := pod.Delete(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestPodWithFiles: the pod's files are the containers' until the sandbox ends.
func TestPodWithFiles(t *testing.T) {
	w := newWorld(t)
	options := w.options(t)
	options.Bundle = t.TempDir()
	options.Pod = &oci.Pod{NewNetNS: true, Files: map[string]string{"/etc/hostname": "web\n"}}
	sandbox, err := newSandbox(t.Context(), options, w.platform)
	if err != nil {
		t.Fatal(err)
	}
	w.Sandbox = sandbox
	w.bundle = writeBundle(t, joined(fmt.Sprintf("/proc/%d/ns/net", sandbox.Pod().PID())))
	w.create(t, IO{})
	if text := read(t, filepath.Join(w.dir.share(), "c1", protocol.MountsDir, "0")); text != "web\n" {
		t.Errorf("/etc/hostname has %q", text)
	}
	if err := sandbox.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}
