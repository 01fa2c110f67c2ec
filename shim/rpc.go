package shim

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/containerd/cgroups/v3"
	eventtypes "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limpet-run/limpet/runtime"
)

// rpcs is the task service as containerd calls it: each method decodes a request, asks the service, and encodes the answer.
// Errors are turned into gRPC statuses by intercept.
type rpcs struct{ *service }

var _ taskapi.TTRPCTaskService = rpcs{}

var nothing = &emptypb.Empty{}

// intercept gives each call its trace, logs it, turns its error into a gRPC status, and keeps a panic from taking the sandbox's other
// containers along.
func (s *service) intercept(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (
	response any, err error) {
	began := time.Now()
	ctx = runtime.WithTraceID(ctx, traceOf(ctx))
	defer func() {
		if reason := recover(); reason != nil {
			s.logger.ErrorContext(ctx, "panic", "call", info.FullMethod, "reason", reason, "stack", string(debug.Stack()))
			err = fmt.Errorf("%s: internal error: %v: %w", info.FullMethod, reason, errdefs.ErrInternal)
		}
		s.logger.DebugContext(ctx, "call", "call", info.FullMethod, "took", time.Since(began), "error", err)
		err = toStatus(err)
	}()
	return method(ctx, unmarshal)
}

// toStatus turns an error into the gRPC status of its class. The wrapped errors that errgrpc sends along as details are left out:
// the message has what they say, and clients would print them after it once more.
func toStatus(err error) error {
	converted := status.Convert(errgrpc.ToGRPC(err))
	return status.Error(converted.Code(), converted.Message())
}

// detach returns a context for a step that must not be left half done because the caller is gone: containerd may restart during it.
// A deadline that the caller has set still holds.
func detach(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	detached := context.WithoutCancel(ctx)
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < timeout {
		return context.WithDeadline(detached, deadline)
	}
	return context.WithTimeout(detached, timeout)
}

func (r rpcs) Create(ctx context.Context, request *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, createTimeout)
	defer cancel()
	task, err := r.create(ctx, request)
	if errdefs.IsNotImplemented(err) {
		// Of Create, containerd takes this code for that of a shim without a task service of version 3: it would try version 2, say
		// that this is missing, and never shut the shim down.
		err = status.Error(codes.InvalidArgument, err.Error())
	}
	if err != nil {
		return nil, err
	}
	return &taskapi.CreateTaskResponse{Pid: task.init.pid()}, nil
}

func (r rpcs) Start(ctx context.Context, request *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	ctx, cancel := detach(ctx, guestTimeout)
	defer cancel()
	task, process, err := r.process(request.ID, request.ExecID)
	if err != nil {
		return nil, err
	}
	if err := task.start(ctx, process); err != nil {
		return nil, err
	}
	return &taskapi.StartResponse{Pid: process.pid()}, nil
}

func (r rpcs) Exec(ctx context.Context, request *taskapi.ExecProcessRequest) (*emptypb.Empty, error) {
	ctx, cancel := detach(ctx, guestTimeout)
	defer cancel()
	if err := r.exec(ctx, request); err != nil {
		return nil, err
	}
	return nothing, nil
}

func (r rpcs) Delete(ctx context.Context, request *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	// The caller's deadline does not hold here: letting output drain may take longer, and who asks again then is told that it is done.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), guestTimeout)
	defer cancel()
	process, exit, err := r.delete(ctx, request.ID, request.ExecID)
	if err != nil {
		return nil, err
	}
	return &taskapi.DeleteResponse{Pid: process.pid(), ExitStatus: exit.Code, ExitedAt: timestamppb.New(exit.At)}, nil
}

func (r rpcs) Kill(ctx context.Context, request *taskapi.KillRequest) (*emptypb.Empty, error) {
	ctx, cancel := detach(ctx, guestTimeout)
	defer cancel()
	task, process, err := r.process(request.ID, request.ExecID)
	if err != nil {
		return nil, err
	}
	if err := task.kill(ctx, process, request.Signal, request.All); err != nil {
		return nil, err
	}
	return nothing, nil
}

func (r rpcs) Wait(ctx context.Context, request *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	_, process, err := r.process(request.ID, request.ExecID)
	if err != nil {
		return nil, err
	}
	exit, err := process.wait(ctx)
	if err != nil {
		return nil, err
	}
	return &taskapi.WaitResponse{ExitStatus: exit.Code, ExitedAt: timestamppb.New(exit.At)}, nil
}

func (r rpcs) State(_ context.Context, request *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	task, process, err := r.process(request.ID, request.ExecID)
	if err != nil {
		return nil, err
	}
	phase, exit := process.record()
	response := &taskapi.StateResponse{
		ID:         request.ID,
		Bundle:     task.bundle,
		Pid:        process.pid(),
		Status:     taskStatus(phase, task.init.backing.Status().State),
		Stdin:      process.stdio.Stdin,
		Stdout:     process.stdio.Stdout,
		Stderr:     process.stdio.Stderr,
		Terminal:   process.stdio.Terminal,
		ExitStatus: exit.Code,
		ExitedAt:   timestamppb.New(exit.At),
		ExecID:     request.ExecID,
	}
	if request.ExecID != "" {
		response.ID = request.ExecID // as runc's shim has it
		if phase == created || phase == starting {
			response.Pid = 0
		}
	}
	return response, nil
}

// taskStatus is how containerd names a phase. A paused container pauses all its processes.
func taskStatus(phase phase, init runtime.State) tasktypes.Status {
	switch {
	case phase == stopped:
		return tasktypes.Status_STOPPED
	case phase != running:
		return tasktypes.Status_CREATED
	case init == runtime.StatePaused:
		return tasktypes.Status_PAUSED
	}
	return tasktypes.Status_RUNNING
}

func (r rpcs) Pids(_ context.Context, request *taskapi.PidsRequest) (*taskapi.PidsResponse, error) {
	pids, err := r.pids(request.ID)
	if err != nil {
		return nil, err
	}
	response := &taskapi.PidsResponse{}
	for _, pid := range pids {
		process := &tasktypes.ProcessInfo{Pid: pid.PID}
		if pid.ExecID != "" {
			if process.Info, err = marshalAny(&runcoptions.ProcessDetails{ExecID: pid.ExecID}); err != nil {
				return nil, err
			}
		}
		response.Processes = append(response.Processes, process)
	}
	return response, nil
}

func (r rpcs) Pause(ctx context.Context, request *taskapi.PauseRequest) (*emptypb.Empty, error) {
	ctx, cancel := detach(ctx, guestTimeout)
	defer cancel()
	task, err := r.task(request.ID)
	if err != nil {
		return nil, err
	}
	if err := task.change(ctx, task.container.Pause, &eventtypes.TaskPaused{ContainerID: request.ID}); err != nil {
		return nil, err
	}
	return nothing, nil
}

func (r rpcs) Resume(ctx context.Context, request *taskapi.ResumeRequest) (*emptypb.Empty, error) {
	ctx, cancel := detach(ctx, guestTimeout)
	defer cancel()
	task, err := r.task(request.ID)
	if err != nil {
		return nil, err
	}
	if err := task.change(ctx, task.container.Resume, &eventtypes.TaskResumed{ContainerID: request.ID}); err != nil {
		return nil, err
	}
	return nothing, nil
}

func (r rpcs) ResizePty(ctx context.Context, request *taskapi.ResizePtyRequest) (*emptypb.Empty, error) {
	ctx, cancel := detach(ctx, guestTimeout)
	defer cancel()
	_, process, err := r.process(request.ID, request.ExecID)
	if err != nil {
		return nil, err
	}
	if phase, _ := process.record(); !process.stdio.Terminal || phase == stopped {
		return nothing, nil // nothing to resize, which no client takes for an error
	}
	if err := process.backing.Resize(ctx, request.Width, request.Height); err != nil {
		return nil, err
	}
	return nothing, nil
}

func (r rpcs) CloseIO(_ context.Context, request *taskapi.CloseIORequest) (*emptypb.Empty, error) {
	_, process, err := r.process(request.ID, request.ExecID)
	if err != nil {
		return nil, err
	}
	if request.Stdin {
		process.streams.closeInput()
	}
	return nothing, nil
}

func (r rpcs) Connect(_ context.Context, request *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	shim, task := r.connect(request.ID)
	return &taskapi.ConnectResponse{ShimPid: shim, TaskPid: task}, nil
}

// Shutdown ends a sandbox that has no task any more. One that the sandbox service has made is ended by that.
func (r rpcs) Shutdown(ctx context.Context, _ *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	if r.hasPod() {
		return nothing, nil
	}
	if err := r.shutDown(ctx); err != nil {
		return nil, err
	}
	return nothing, nil
}

// Checkpoint changes nothing: who has paused the container for it resumes it after this answer, too.
func (r rpcs) Checkpoint(_ context.Context, request *taskapi.CheckpointTaskRequest) (*emptypb.Empty, error) {
	if _, err := r.task(request.ID); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("container %s: a checkpoint of a container in a VM: %w", request.ID, errdefs.ErrNotImplemented)
}

func (r rpcs) Update(ctx context.Context, request *taskapi.UpdateTaskRequest) (*emptypb.Empty, error) {
	ctx, cancel := detach(ctx, guestTimeout)
	defer cancel()
	task, err := r.task(request.ID)
	if err != nil {
		return nil, err
	}
	resources, err := decodeResources(request.Resources)
	if err != nil {
		return nil, fmt.Errorf("update container %s: %w", request.ID, err)
	}
	if err := task.container.Update(ctx, resources); err != nil {
		return nil, err
	}
	return nothing, nil
}

func (r rpcs) Stats(ctx context.Context, request *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, guestTimeout)
	defer cancel()
	task, err := r.task(request.ID)
	if err != nil {
		return nil, err
	}
	stats, err := task.container.Stats(ctx)
	if err != nil {
		return nil, err
	}
	metrics, err := marshalAny(metricsOf(stats, cgroups.Mode()))
	if err != nil {
		return nil, err
	}
	return &taskapi.StatsResponse{Stats: metrics}, nil
}
