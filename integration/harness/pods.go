package harness

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The runtime handlers of the run's CRI, as a RuntimeClass names them: limpet in both modes that containerd has for sandboxes, limpet
// with a network that cannot be set up to its end and with one of more interfaces than a machine has room for, and runc to compare with.
const (
	HandlerPause          = "limpet"      // a pod begins with a pause container
	HandlerSandbox        = "limpet-shim" // a pod begins with a call of the Sandbox API
	HandlerBrokenNetwork  = "limpet-broken-network"
	HandlerCrowdedNetwork = "limpet-crowded-network"
	HandlerRunc           = "runc"
	// WithoutOptions after one of limpet's is the same handler without runtime options. containerd's CRI takes those of a pod with
	// mapped users for runc's.
	WithoutOptions = "-without-options"
)

const (
	// pauseImage is the image of pause containers.
	pauseImage = "limpet.test/pause:latest"
	// PodNamespace is the containerd namespace of every CRI. The run's containerd has nobody else's pods.
	PodNamespace = "k8s.io"
	// podPoll is how often it is asked whether CRI serves: nothing tells that.
	podPoll = 10 * time.Millisecond
)

// podConfigPath is the limpet configuration of pods.
func (d *Daemon) podConfigPath() string { return filepath.Join(d.Dir, "limpet-pods.toml") }

// writePodConfig writes it.
func (d *Daemon) writePodConfig() error {
	return d.WriteLimpetConfig(d.podConfigPath(), nil)
}

// podConfig is the configuration of containerd's CRI: what has well-known paths on the host otherwise, and the handlers.
func (d *Daemon) podConfig() map[string]any {
	type table = map[string]any
	limpet := func(sandboxer, networks string) table {
		return table{
			"runtime_type": Limpet, "sandboxer": sandboxer, "options": table{"ConfigPath": d.podConfigPath()}, "cni_conf_dir": networks,
			// As limpet install has it.
			"pod_annotations":                 []string{"io.limpet.*"},
			"privileged_without_host_devices": true, "privileged_without_host_devices_all_devices_allowed": true,
		}
	}
	return table{
		"restrict_oom_score_adj":       true, // not everyone may make a process less likely to be ended
		"netns_mounts_under_state_dir": true,
		"cni":                          table{"bin_dirs": []string{d.Build.Path("bin/cni"), d.ownPlugins()}, "conf_dir": d.networks()},
		"containerd": table{"default_runtime_name": HandlerRunc, "runtimes": table{
			HandlerPause:          limpet("podsandbox", d.networks()),
			HandlerSandbox:        limpet("shim", d.networks()),
			HandlerBrokenNetwork:  limpet("podsandbox", d.brokenNetworks()),
			HandlerCrowdedNetwork: limpet("podsandbox", d.crowdedNetworks()),
			HandlerRunc:           table{"runtime_type": Runc},

			HandlerPause + WithoutOptions:   table{"runtime_type": Limpet, "sandboxer": "podsandbox"},
			HandlerSandbox + WithoutOptions: table{"runtime_type": Limpet, "sandboxer": "shim"},
		}},
	}
}

// preparePods imports the images of pods and waits until CRI has them.
func (d *Daemon) preparePods(ctx context.Context) error {
	for _, name := range []string{"pause.tar", "busybox.tar"} {
		path := d.Build.Path(name)
		if err := d.Ctr(ctx, "--namespace", PodNamespace, "image", "import", "--local", path).Err(); err != nil {
			return fmt.Errorf("import %s: %w", path, err)
		}
	}
	return d.awaitPods(ctx)
}

// awaitPods waits until containerd's CRI serves, which begins after containerd says that it is ready, and knows the image of containers,
// of which it learns by events. Until then calls fail in ways that are not told apart.
func (d *Daemon) awaitPods(ctx context.Context) error {
	images := runtime.NewImageServiceClient(d.conn)
	ticker := time.NewTicker(podPoll)
	defer ticker.Stop()
	for {
		answer, err := images.ImageStatus(ctx, &runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: Image}})
		if err == nil && answer.Image != nil {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("CRI does not know %s: %w (%w)", Image, ctx.Err(), err)
		}
	}
}

// Pod is a pod of the run. What a kubelet does for it is done by the harness, step by step.
type Pod struct {
	ID     string
	Config *runtime.PodSandboxConfig
	d      *Daemon
}

// PodConfig returns the configuration of a pod: a name, a cgroup of its own below the run's, and for each container a process id
// namespace of its own, as a kubelet has it unless a pod says otherwise. Files of logs are below a directory of the run.
func (d *Daemon) PodConfig(name string) *runtime.PodSandboxConfig {
	return &runtime.PodSandboxConfig{
		Metadata:     &runtime.PodSandboxMetadata{Name: name, Uid: name, Namespace: "default"},
		Hostname:     name,
		LogDirectory: filepath.Join(d.Dir, "logs", name),
		Linux: &runtime.LinuxPodSandboxConfig{
			CgroupParent: d.PodCgroup(name).Path,
			SecurityContext: &runtime.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER},
			},
		},
	}
}

// RunPod makes and starts a pod with that handler.
func (d *Daemon) RunPod(ctx context.Context, handler string, config *runtime.PodSandboxConfig) (*Pod, error) {
	answer, err := d.Pods.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	if err != nil {
		return nil, fmt.Errorf("run pod %s: %w", config.Metadata.Name, err)
	}
	return &Pod{ID: answer.PodSandboxId, Config: config, d: d}, nil
}

// ContainerConfig returns the configuration of a container of Image.
func ContainerConfig(name string, command ...string) *runtime.ContainerConfig {
	return &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: name},
		Image:    &runtime.ImageSpec{Image: Image},
		Command:  command,
		LogPath:  name + ".log",
		Linux: &runtime.LinuxContainerConfig{
			Resources: &runtime.LinuxContainerResources{},
			SecurityContext: &runtime.LinuxContainerSecurityContext{
				NamespaceOptions: &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER},
			},
		},
	}
}

// Create makes a container in the pod and returns its id.
func (p *Pod) Create(ctx context.Context, config *runtime.ContainerConfig) (string, error) {
	answer, err := p.d.Pods.CreateContainer(ctx, &runtime.CreateContainerRequest{
		PodSandboxId: p.ID, Config: config, SandboxConfig: p.Config,
	})
	if err != nil {
		return "", fmt.Errorf("create container %s: %w", config.Metadata.Name, err)
	}
	return answer.ContainerId, nil
}

// Start makes and starts a container in the pod and returns its id.
func (p *Pod) Start(ctx context.Context, config *runtime.ContainerConfig) (string, error) {
	id, err := p.Create(ctx, config)
	if err != nil {
		return "", err
	}
	if _, err := p.d.Pods.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: id}); err != nil {
		return "", fmt.Errorf("start container %s: %w", config.Metadata.Name, err)
	}
	return id, nil
}

// PodNamespaces is a pattern for the paths of the network namespaces of the run's pods.
func (d *Daemon) PodNamespaces() string {
	return filepath.Join(d.Dir, "state/io.containerd.grpc.v1.cri/netns/*")
}

// Bundle is the path of the bundle of a container of the run, which is there while it has a task.
func (d *Daemon) Bundle(container string) string {
	return filepath.Join(d.Dir, "state/io.containerd.runtime.v2.task", d.Namespace, container)
}

// PodBundle is the path of the bundle of a pod's container, which is there while it has a task.
func (d *Daemon) PodBundle(container string) string {
	return filepath.Join(d.Dir, "state/io.containerd.runtime.v2.task", PodNamespace, container)
}

// Remove stops the pod and removes it with its containers. One that has gone is no error.
func (p *Pod) Remove(ctx context.Context) error {
	return p.d.removePod(ctx, p.ID)
}

func (c *Client) removePod(ctx context.Context, id string) error {
	if _, err := c.Pods.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		return fmt.Errorf("stop pod %s: %w", id, err)
	}
	if _, err := c.Pods.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
		return fmt.Errorf("remove pod %s: %w", id, err)
	}
	return nil
}

// removePods removes every pod of the run.
func (c *Client) removePods(ctx context.Context) error {
	list, err := c.Pods.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{})
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	var errs []error
	for _, pod := range list.Items {
		errs = append(errs, c.removePod(ctx, pod.Id))
	}
	return errors.Join(errs...)
}

// AwaitState waits until a container is in that state, and returns what CRI tells of it. The pod's end is not waited for: a container
// that never gets there is an error when ctx ends.
func (d *Daemon) AwaitState(ctx context.Context, id string, want runtime.ContainerState) (*runtime.ContainerStatus, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, err := d.Pods.GetContainerEvents(ctx, &runtime.GetEventsRequest{})
	if err != nil {
		return nil, err
	}
	for {
		answer, err := d.Pods.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: id})
		if err != nil {
			return nil, err
		}
		if answer.Status.State == want {
			return answer.Status, nil
		}
		if _, err := events.Recv(); err != nil {
			return nil, fmt.Errorf("container %s is %s, not %s: %w", id, answer.Status.State, want, err)
		}
	}
}
