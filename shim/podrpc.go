package shim

import (
	"context"
	"fmt"
	goruntime "runtime"
	"time"

	"github.com/containerd/cgroups/v3"
	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limpet-run/limpet/runtime"
)

// sandboxRPCs is the sandbox service as containerd calls it for a pod without a pause container. Errors are turned into gRPC statuses by
// intercept.
type sandboxRPCs struct{ *service }

var _ sandboxapi.TTRPCSandboxService = sandboxRPCs{}

func (r sandboxRPCs) CreateSandbox(ctx context.Context, request *sandboxapi.CreateSandboxRequest) (
	*sandboxapi.CreateSandboxResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, createTimeout)
	defer cancel()
	if err := r.createSandbox(ctx, request); err != nil {
		return nil, err
	}
	return &sandboxapi.CreateSandboxResponse{}, nil
}

func (r sandboxRPCs) StartSandbox(ctx context.Context, request *sandboxapi.StartSandboxRequest) (*sandboxapi.StartSandboxResponse, error) {
	pod, err := r.podOf(request.SandboxID)
	if err != nil {
		return nil, err
	}
	init := pod.container.Init()
	if err := init.Start(ctx); err != nil {
		return nil, err
	}
	return &sandboxapi.StartSandboxResponse{Pid: uint32(init.PID()), CreatedAt: timestamppb.New(pod.createdAt)}, nil
}

// Platform tells for what containers' configurations are made.
func (r sandboxRPCs) Platform(_ context.Context, request *sandboxapi.PlatformRequest) (*sandboxapi.PlatformResponse, error) {
	if _, err := r.podOf(request.SandboxID); err != nil {
		return nil, err
	}
	return &sandboxapi.PlatformResponse{Platform: &types.Platform{OS: "linux", Architecture: goruntime.GOARCH}}, nil
}

func (r sandboxRPCs) StopSandbox(ctx context.Context, request *sandboxapi.StopSandboxRequest) (*sandboxapi.StopSandboxResponse, error) {
	pod, err := r.podOf(request.SandboxID)
	if err != nil {
		return nil, err
	}
	limit := defaultPodStop
	if request.TimeoutSecs > 0 {
		limit = time.Duration(request.TimeoutSecs) * time.Second
	}
	ctx, cancel := detach(ctx, limit)
	defer cancel()
	if err := r.stopPod(ctx, pod); err != nil {
		return nil, err
	}
	return &sandboxapi.StopSandboxResponse{}, nil
}

func (r sandboxRPCs) WaitSandbox(ctx context.Context, request *sandboxapi.WaitSandboxRequest) (*sandboxapi.WaitSandboxResponse, error) {
	pod, err := r.podOf(request.SandboxID)
	if err != nil {
		return nil, err
	}
	exit, err := pod.container.Init().Wait(ctx)
	if err != nil {
		return nil, err
	}
	return &sandboxapi.WaitSandboxResponse{ExitStatus: exit.Code, ExitedAt: timestamppb.New(exit.At)}, nil
}

// SandboxStatus does not ask the guest.
func (r sandboxRPCs) SandboxStatus(_ context.Context, request *sandboxapi.SandboxStatusRequest) (*sandboxapi.SandboxStatusResponse, error) {
	pod, err := r.podOf(request.SandboxID)
	if err != nil {
		return nil, err
	}
	status := pod.container.Init().Status()
	response := &sandboxapi.SandboxStatusResponse{
		SandboxID: request.SandboxID, Pid: uint32(status.PID), State: pod.state(), CreatedAt: timestamppb.New(pod.createdAt),
	}
	if status.State == runtime.StateStopped {
		response.Pid, response.ExitedAt = 0, timestamppb.New(status.Exit.At)
	}
	return response, nil
}

func (r sandboxRPCs) PingSandbox(_ context.Context, request *sandboxapi.PingRequest) (*sandboxapi.PingResponse, error) {
	if _, err := r.podOf(request.SandboxID); err != nil {
		return nil, err
	}
	return &sandboxapi.PingResponse{}, nil
}

// ShutdownSandbox ends whatever there is, also of a sandbox that was not made: containerd waits for the end of this process next.
func (r sandboxRPCs) ShutdownSandbox(ctx context.Context, _ *sandboxapi.ShutdownSandboxRequest) (
	*sandboxapi.ShutdownSandboxResponse, error) {
	if err := r.close(ctx); err != nil {
		return nil, err
	}
	return &sandboxapi.ShutdownSandboxResponse{}, nil
}

func (r sandboxRPCs) SandboxMetrics(ctx context.Context, request *sandboxapi.SandboxMetricsRequest) (
	*sandboxapi.SandboxMetricsResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, guestTimeout)
	defer cancel()
	pod, err := r.podOf(request.SandboxID)
	if err != nil {
		return nil, err
	}
	stats, err := pod.container.Stats(ctx)
	if err != nil {
		return nil, err
	}
	data, err := marshalAny(metricsOf(stats, cgroups.Mode()))
	if err != nil {
		return nil, err
	}
	return &sandboxapi.SandboxMetricsResponse{Metrics: &types.Metric{
		Timestamp: timestamppb.New(stats.At), ID: request.SandboxID, Data: data,
	}}, nil
}

// UpdateSandbox is refused in the way that its callers take for "nothing to do": the pod's limits are those of its cgroup on the host, and
// the machine follows the limits of its containers.
func (r sandboxRPCs) UpdateSandbox(_ context.Context, request *sandboxapi.UpdateSandboxRequest) (*sandboxapi.UpdateSandboxResponse, error) {
	if _, err := r.podOf(request.SandboxID); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("update sandbox %s: its containers are updated one by one: %w", request.SandboxID, errdefs.ErrNotImplemented)
}
