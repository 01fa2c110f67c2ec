package shim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/runtime"
	"github.com/limpet-run/limpet/runtime/config"
	"github.com/limpet-run/limpet/runtime/oci"
)

// Runtime makes sandboxes. Its errors are typed with errdefs.
type Runtime interface {
	// NewSandbox returns a sandbox that is ready for containers. On error nothing is left of it, nor of its first container.
	NewSandbox(ctx context.Context, options SandboxOptions) (Sandbox, error)
	// Cleanup removes what a sandbox whose shim is gone left behind for the bundle. Nothing there is no error.
	Cleanup(ctx context.Context, bundle string) error
	// NewSpare makes a machine for a sandbox to come, see runtime.Spare. On error nothing is left of it.
	NewSpare(ctx context.Context, configuration config.Config, logger *slog.Logger) (Spare, error)
}

// Spare is a machine that waits for its sandbox. Until it is passed on with SandboxOptions its owner must Stop it. See runtime.Spare.
type Spare interface {
	Lost() <-chan struct{}
	Processes() []runtime.HostProcess
	Stop(ctx context.Context) error
}

// SandboxOptions is what the shim knows of a sandbox before there is one.
type SandboxOptions struct {
	ID, Namespace string
	Bundle        string // directory of the sandbox's bundle, or of the first container's
	// Pod is the pod to make if it has no pause container.
	Pod     *oci.Pod
	Options RuntimeOptions
	// First is the container for which the sandbox is made, see Sandbox.First. Nil: none.
	First *runtime.ContainerOptions
	// OOM is called when the guest ran out of memory in a container, before Wait of the process killed for it returns. It does not block.
	OOM    func(containerID string)
	Logger *slog.Logger
	Before []runtime.Stage // what was done for it before, for its trace
	Spare  Spare           // that the Runtime has made; nil: there is none
}

// Sandbox is a running sandbox. See runtime.Sandbox.
type Sandbox interface {
	// Pod is what stands for the sandbox of a pod, its pause container if it has one; nil for a sandbox that is none.
	Pod() Container
	// First is the container that was made with the sandbox, where that could be: that of SandboxOptions.First, or nil.
	First() Container
	CreateContainer(ctx context.Context, options runtime.ContainerOptions) (Container, error)
	Stop(ctx context.Context) error
}

// Container is a container of a sandbox. See runtime.Container. Delete lets the last output flow, for a bounded time, and closes all
// streams.
type Container interface {
	Init() Process
	Exec(ctx context.Context, options runtime.ExecOptions) (Process, error)
	Pids() []runtime.Pid
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	Stats(ctx context.Context) (runtime.Stats, error)
	Update(ctx context.Context, resources *specs.LinuxResources) error
	Delete(ctx context.Context) (runtime.ExitStatus, error)
}

// Process is a process of a container. See runtime.Process. Wait of an init process returns only when it would return for every exec that
// was started in the container.
type Process interface {
	PID() int
	Start(ctx context.Context) error
	Kill(ctx context.Context, signal uint32, all bool) error
	Resize(ctx context.Context, columns, rows uint32) error
	Wait(ctx context.Context) (runtime.ExitStatus, error)
	Status() runtime.Status
	Delete(ctx context.Context) (runtime.ExitStatus, error)
}

// MicroVMs is the Runtime of package runtime.
type MicroVMs struct{}

// NewSandbox implements Runtime.
func (MicroVMs) NewSandbox(ctx context.Context, options SandboxOptions) (Sandbox, error) {
	configuration, err := loadConfig(options.Options)
	if err != nil {
		if options.Spare != nil {
			err = errors.Join(err, options.Spare.Stop(ctx))
		}
		return nil, fmt.Errorf("configuration of sandbox %s: %w", options.ID, err)
	}
	spare, _ := options.Spare.(*runtime.Spare) // nil: there is none
	sandbox, err := runtime.NewSandbox(ctx, runtime.SandboxOptions{
		ID:        options.ID,
		Namespace: options.Namespace,
		Bundle:    options.Bundle,
		Pod:       options.Pod,
		Config:    configuration,
		Observer:  observer{options.OOM},
		Logger:    options.Logger,
		First:     options.First,
		Before:    options.Before,
		Spare:     spare,
	})
	if err != nil {
		return nil, err
	}
	return microVM{sandbox}, nil
}

// NewSpare implements Runtime.
func (MicroVMs) NewSpare(ctx context.Context, configuration config.Config, logger *slog.Logger) (Spare, error) {
	spare, err := runtime.NewSpare(ctx, runtime.SpareOptions{Config: configuration, Logger: logger})
	if err != nil {
		return nil, err
	}
	return spare, nil
}

// Cleanup implements Runtime.
func (MicroVMs) Cleanup(ctx context.Context, bundle string) error {
	return runtime.Cleanup(ctx, bundle)
}

// loadConfig reads the configuration that the options name; the path wins over a body, as containerd documents it.
func loadConfig(options RuntimeOptions) (config.Config, error) {
	var loaded config.Config
	var err error
	if options.ConfigPath == "" && len(options.ConfigBody) > 0 {
		loaded, err = config.LoadBody(options.ConfigBody)
	} else {
		loaded, err = config.Load(options.ConfigPath)
	}
	if err != nil && !errdefs.IsInvalidArgument(err) { // no file to read
		err = fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return loaded, err
}

// observer passes on what only a callback can tell. Exits are awaited with Process.Wait.
type observer struct{ oom func(containerID string) }

func (o observer) OOM(containerID string) { o.oom(containerID) }

type microVM struct{ *runtime.Sandbox }

func (s microVM) Pod() Container {
	if pod := s.Sandbox.Pod(); pod != nil {
		return pause{pod}
	}
	return nil
}

func (s microVM) First() Container {
	if first := s.Sandbox.First(); first != nil {
		return vmContainer{first}
	}
	return nil
}

// CreateContainer makes a container. That of a pod which has the sandbox's identifier is its pause container.
func (s microVM) CreateContainer(ctx context.Context, options runtime.ContainerOptions) (Container, error) {
	if pod := s.Sandbox.Pod(); pod != nil && options.ID == s.Sandbox.ID() {
		if err := pod.CreatePause(options); err != nil {
			return nil, err
		}
		return pause{pod}, nil
	}
	container, err := s.Sandbox.CreateContainer(ctx, options)
	if err != nil {
		return nil, err
	}
	return vmContainer{container}, nil
}

type vmContainer struct{ *runtime.Container }

// pause is a pod's pause container, and the init process of it.
type pause struct{ *runtime.Pod }

func (p pause) Init() Process { return p }

func (p pause) Exec(ctx context.Context, options runtime.ExecOptions) (Process, error) {
	return nil, p.Pod.Exec(ctx, options)
}

func (c vmContainer) Init() Process { return c.Container.Init() }

func (c vmContainer) Exec(ctx context.Context, options runtime.ExecOptions) (Process, error) {
	process, err := c.Container.Exec(ctx, options)
	if err != nil {
		return nil, err
	}
	return process, nil
}
