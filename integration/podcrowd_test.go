package integration

import (
	"context"
	"maps"
	"slices"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	crowdPods, crowdContainers = 20, 2
	// crowdRemoval is how long it may take to remove them all at once.
	crowdRemoval = time.Minute
)

// TestPodCrowd starts many pods at once, of all modes, and removes them at once.
func TestPodCrowd(t *testing.T) {
	s := begin(t)
	handlers := slices.Collect(maps.Values(podModes(t)))
	crowd, err := daemon.StartCrowd(s.ctx, handlers, "crowd", crowdPods, crowdContainers)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), crowdRemoval)
		defer cancel()
		began := time.Now()
		if err := crowd.Remove(ctx); err != nil {
			t.Error(err)
		}
		t.Logf("removed after %s", time.Since(began).Round(time.Millisecond))
	})
	s.must(err)
	slices.Sort(crowd.Ready)
	t.Logf("ready: the first after %s, the last after %s", crowd.Ready[0].Round(time.Millisecond),
		crowd.Ready[crowdPods-1].Round(time.Millisecond))

	pods, err := daemon.Pods.ListPodSandbox(s.ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{
		State: &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY},
	}})
	s.must(err)
	containers, err := daemon.Pods.ListContainers(s.ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{
		State: &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING},
	}})
	s.must(err)
	if len(pods.Items) != crowdPods || len(containers.Containers) != crowdPods*crowdContainers {
		t.Errorf("%d pods are ready and %d containers run, want %d and %d", len(pods.Items), len(containers.Containers),
			crowdPods, crowdPods*crowdContainers)
	}
}
