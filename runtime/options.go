package runtime

import (
	"log/slog"

	"github.com/limpet-run/limpet/runtime/config"
	"github.com/limpet-run/limpet/runtime/oci"
)

// SandboxOptions says what sandbox to make.
type SandboxOptions struct {
	ID, Namespace string
	// Bundle is the directory that the state directory is linked from, for Cleanup. It is the bundle of the first container, whose
	// annotations may change the configuration, unless Pod is given.
	Bundle string
	// Pod is the pod to make, whose annotations may change the configuration. Nil: what the bundle says, a pod if its container is a
	// pause container.
	Pod      *oci.Pod
	Config   config.Config
	Observer Observer
	Logger   *slog.Logger
	// First is the container that is made with the sandbox, see Sandbox.First. Nil: none.
	First *ContainerOptions
	// Before is what was done for the sandbox before NewSandbox, in order: its trace begins with it. May be empty.
	Before []Stage
	// Spare is a machine that the sandbox takes if it fits; if not, it is stopped while the sandbox starts. It belongs to NewSandbox. Nil:
	// there is none.
	Spare *Spare
}

// needs is what a sandbox is started with.
type needs struct {
	asked
	config config.Config // with what the annotations change
	frame  frame         // of a machine that boots
	bare   frame         // of one that is a clone
}

// needs computes what the options come to on this host.
func (o SandboxOptions) needs() (needs, error) {
	asked, err := o.asked()
	if err != nil {
		return needs{}, err
	}
	configuration, err := o.Config.WithAnnotations(asked.annotations)
	if err != nil {
		return needs{}, err
	}
	frame, err := hostFrame(configuration.VM, asked.floor)
	if err != nil {
		return needs{}, err
	}
	bare, err := bareFrame(configuration.VM)
	return needs{asked, configuration, frame, bare}, err
}

// asked is what a sandbox is made after.
type asked struct {
	annotations map[string]string
	cgroupsPath string
	floor       demand   // what the machine is to cover from the start
	pod         *oci.Pod // nil: it is none
	disks       bool     // its first container has block devices
}

// asked reads the bundle if it has to.
func (o SandboxOptions) asked() (asked, error) {
	pod := o.Pod
	if pod == nil {
		spec, err := oci.Load(o.Bundle)
		if err != nil {
			return asked{}, err
		}
		if !oci.IsPod(spec) {
			return asked{annotations: spec.Annotations, cgroupsPath: spec.Linux.CgroupsPath, disks: oci.HasDisks(spec)}, nil
		}
		if pod, err = oci.NewPod(spec); err != nil {
			return asked{}, err
		}
	}
	return asked{annotations: pod.Annotations, cgroupsPath: pod.CgroupsPath, floor: podDemand(pod), pod: pod}, nil
}
