package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/limpet-run/limpet/runtime"
	"github.com/limpet-run/limpet/runtime/oci"
)

// defaultPodStop is how long StopSandbox may take if its caller does not say. Its caller in the CRI has 10 s for a container's removal.
const defaultPodStop = 10 * time.Second

// pod is a sandbox that the sandbox service has made.
type pod struct {
	sandbox   Sandbox
	container Container // stands for it, see Sandbox.Pod
	createdAt time.Time
}

// hasPod tells whether the sandbox service has made the sandbox.
func (s *service) hasPod() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pod != nil
}

// podOf returns the pod of that identifier.
func (s *service) podOf(id string) (*pod, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pod == nil || id != s.id {
		return nil, fmt.Errorf("sandbox %s: %w", id, errdefs.ErrNotFound)
	}
	return s.pod, nil
}

// createSandbox makes the sandbox of a pod that has no pause container.
func (s *service) createSandbox(ctx context.Context, r *sandboxapi.CreateSandboxRequest) error {
	called := time.Now()
	if r.SandboxID != s.id {
		return fmt.Errorf("sandbox %s: this shim was started for %s: %w", r.SandboxID, s.id, errdefs.ErrInvalidArgument)
	}
	config, err := decodePodConfig(r.Options)
	if err != nil {
		return fmt.Errorf("sandbox %s: %w", s.id, err)
	}
	options, err := readOptionsRecord(s.bundle)
	if err != nil {
		return fmt.Errorf("runtime options of sandbox %s: %w", s.id, err)
	}
	host, err := readHostFiles()
	if err != nil {
		return fmt.Errorf("sandbox %s: %w", s.id, err)
	}
	plan, err := oci.NewPodOfConfig(s.id, config, r.NetnsPath, r.Annotations, host)
	if err != nil {
		return fmt.Errorf("sandbox %s: %w", s.id, err)
	}
	slot, claimed := s.claimSandbox()
	if !claimed {
		return fmt.Errorf("sandbox %s: %w", s.id, errdefs.ErrAlreadyExists)
	}
	made, err := s.makeSandbox(ctx, slot, SandboxOptions{Bundle: r.BundlePath, Options: options, Pod: plan}, called)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pod = &pod{sandbox: made, container: made.Pod(), createdAt: time.Now()}
	return nil
}

// decodePodConfig reads the options of a sandbox: the configuration of a pod, or none.
func decodePodConfig(options *anypb.Any) (*cri.PodSandboxConfig, error) {
	config := &cri.PodSandboxConfig{}
	if options.GetTypeUrl() == "" {
		return config, nil
	}
	if name := proto.MessageName(config); options.MessageName() != name {
		return nil, fmt.Errorf("options of type %q are not known: use %s: %w", options.GetTypeUrl(), name, errdefs.ErrInvalidArgument)
	}
	if err := proto.Unmarshal(options.GetValue(), config); err != nil {
		return nil, fmt.Errorf("the pod's configuration: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return config, nil
}

// readHostFiles reads what pods have of the host. A file that is not there has no text.
func readHostFiles() (files oci.HostFiles, err error) {
	files.Hostname, err = os.Hostname()
	for _, file := range []struct {
		path string
		text *string
	}{{"/etc/hosts", &files.Hosts}, {"/etc/resolv.conf", &files.Resolv}} {
		text, readErr := os.ReadFile(file.path)
		if readErr != nil && !errors.Is(readErr, os.ErrNotExist) {
			err = errors.Join(err, readErr)
		}
		*file.text = string(text)
	}
	return files, err
}

// stopPod ends the pod and the machine with all that runs in it. The shim still tells of it. It may be called again.
func (s *service) stopPod(ctx context.Context, p *pod) error {
	err := p.container.Init().Kill(ctx, uint32(unix.SIGKILL), false)
	if err != nil && !errdefs.IsNotFound(err) { // it has ended before
		return err
	}
	return p.sandbox.Stop(ctx)
}

// The states of a sandbox, as CRI has them.
var (
	sandboxReady    = cri.PodSandboxState_SANDBOX_READY.String()
	sandboxNotReady = cri.PodSandboxState_SANDBOX_NOTREADY.String()
)

// state is the pod's as CRI has it. One that was not started is not ready.
func (p *pod) state() string {
	if p.container.Init().Status().State == runtime.StateRunning {
		return sandboxReady
	}
	return sandboxNotReady
}
