package runtime

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/runtime/oci"
)

// SandboxState is what can be seen of a sandbox from outside.
type SandboxState string

// The states of a sandbox, seen from outside.
const (
	SandboxCreating SandboxState = "creating" // its machine is being started
	SandboxRunning  SandboxState = "running"
	SandboxStopped  SandboxState = "stopped"  // its machine has ended, and its holder has not removed it yet
	SandboxOrphaned SandboxState = "orphaned" // its holder was killed: what is left is to be cleaned up
)

// Annotations by which CRI says what a container is called and made of.
const (
	annotationImageName     = "io.kubernetes.cri.image-name"
	annotationContainerName = "io.kubernetes.cri.container-name"
	annotationPodName       = "io.kubernetes.cri.sandbox-name"
	annotationPodNamespace  = "io.kubernetes.cri.sandbox-namespace"
)

// SandboxInfo is what is known of a sandbox without asking its holder.
type SandboxInfo struct {
	Namespace  string          `json:"namespace"` // containerd's
	ID         string          `json:"id"`
	State      SandboxState    `json:"state"`
	Pod        bool            `json:"pod"`
	Name       string          `json:"name,omitempty"` // of the pod, NAMESPACE/NAME, as far as a bundle says
	Dir        string          `json:"dir"`            // its state directory
	Doors      []string        `json:"doors"`          // the names of the unix sockets in it, by which processes of this host reach it
	Bundle     string          `json:"bundle"`         // of its first container
	Holder     HostProcess     `json:"holder"`         // the process that it belongs to: a shim, for containerd
	Machine    []HostProcess   `json:"machine"`        // the machine's processes on the host
	VCPUs      int             `json:"vcpus"`
	MemoryMiB  int             `json:"memory_mib"`
	Template   string          `json:"template,omitempty"` // that it is a clone of; empty: it has booted
	Containers []ContainerInfo `json:"containers"`         // the oldest first
	Began      time.Time       `json:"began"`
	Parts      []TracePart     `json:"parts"` // of its start, see Trace
}

// ContainerInfo is what is known of a container without asking its sandbox's holder.
type ContainerInfo struct {
	ID      string      `json:"id"`
	Name    string      `json:"name,omitempty"` // of a pod's container, as far as its bundle says
	State   State       `json:"state"`          // of its init; empty while the container is being created
	PID     int         `json:"pid"`            // of the process that stands for it on the host; 0: there is none
	Exit    *ExitRecord `json:"exit,omitempty"` // once its init has ended, if that was seen
	Image   string      `json:"image,omitempty"`
	Bundle  string      `json:"bundle"`
	Command []string    `json:"command"`
	Created time.Time   `json:"created"`
}

// Sandboxes returns the sandboxes that there are, those of killed holders too, the oldest first. A spare is one only when its holder was
// killed. They may change or go meanwhile. A state
// directory that cannot be read does not keep the others back.
func Sandboxes(stateDir string) ([]SandboxInfo, error) {
	var sandboxes []SandboxInfo
	err := eachRecord(stateDir, func(dir string, record record) {
		if record.Spare != "" && record.Holder.Lives() {
			return
		}
		info := describe(record, dir, hypervisor.Process.Lives, specOf)
		info.Doors = doorsIn(dir)
		sandboxes = append(sandboxes, info)
	})
	slices.SortFunc(sandboxes, func(a, b SandboxInfo) int { return a.Began.Compare(b.Began) })
	return sandboxes, err
}

// eachRecord calls visit with every state directory and what it remembers. One that cannot be read does not keep the others back.
func eachRecord(stateDir string, visit func(dir string, record record)) error {
	entries, err := os.ReadDir(stateDir)
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("look for sandboxes: %w: only their owner sees them: be root", err)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look for sandboxes: %w", err)
	}
	var errs []error
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		dir := filepath.Join(stateDir, entry.Name())
		record, err := readRecord(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist): // it is just being made or removed
		case err != nil:
			errs = append(errs, err)
		default:
			visit(dir, record)
		}
	}
	return errors.Join(errs...)
}

// doorsIn lists the unix sockets of a directory.
func doorsIn(dir string) []string {
	doors := []string{}
	entries, _ := os.ReadDir(dir) // it may just be going
	for _, entry := range entries {
		if entry.Type() == fs.ModeSocket {
			doors = append(doors, entry.Name())
		}
	}
	return doors
}

// Door is the path of a door: AgentDoor or another.
func (s SandboxInfo) Door(name string) string { return filepath.Join(s.Dir, name) }

// Trace is how long the sandbox took to start.
func (s SandboxInfo) Trace() Trace { return Trace{s.Namespace, s.ID, s.Began, s.Template, s.Parts} }

// specOf is the configuration of a bundle; an empty one if it cannot be read: it may be gone, and says nothing that has to be known.
func specOf(bundle string) *specs.Spec {
	spec, err := oci.Load(bundle)
	if err != nil {
		return &specs.Spec{}
	}
	return spec
}

// describe is what a record tells together with which processes live, and with the configurations of bundles.
func describe(r record, dir string, lives func(HostProcess) bool, specOf func(bundle string) *specs.Spec) SandboxInfo {
	info := SandboxInfo{
		Namespace: r.Namespace, ID: r.ID, State: SandboxRunning, Pod: r.Pod != nil, Dir: dir, Bundle: r.Bundle, Holder: r.Holder,
		Machine: []HostProcess{}, VCPUs: r.Size.VCPUs, MemoryMiB: r.Size.MemoryMiB, Containers: []ContainerInfo{}, Began: r.Began,
		Template: r.Template, Parts: r.Parts,
	}
	for _, process := range r.Machine {
		if lives(process) {
			info.Machine = append(info.Machine, process)
		}
	}
	switch {
	case !lives(r.Holder):
		info.State = SandboxOrphaned
	case len(r.Parts) == 0: // the first is written when the sandbox has been started
		info.State = SandboxCreating
	case len(info.Machine) < len(r.Machine): // the end of one is the end of all
		info.State = SandboxStopped
	}
	if info.Pod {
		info.Name = podName(specOf(r.Bundle))
	}
	for id, container := range r.Containers {
		spec := specOf(container.Bundle)
		if info.Pod {
			info.Name = cmp.Or(info.Name, podName(spec))
		}
		info.Containers = append(info.Containers, describeContainer(id, container, lives, spec))
	}
	slices.SortFunc(info.Containers, func(a, b ContainerInfo) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	return info
}

func describeContainer(id string, r containerRecord, lives func(HostProcess) bool, spec *specs.Spec) ContainerInfo {
	info := ContainerInfo{
		ID: id, Name: spec.Annotations[annotationContainerName], State: r.State, Exit: r.Exit, Image: spec.Annotations[annotationImageName],
		Bundle: r.Bundle, Command: []string{}, Created: r.Created,
	}
	if spec.Process != nil {
		info.Command = spec.Process.Args
	}
	switch {
	case r.Anchor != nil && lives(*r.Anchor):
		info.PID = r.Anchor.PID
	case r.State != "": // what stands for it goes when its init has ended
		info.State = StateStopped
	}
	return info
}

// podName is what the configuration of a pod's container says the pod is called; empty: nothing.
func podName(spec *specs.Spec) string {
	name := spec.Annotations[annotationPodName]
	if name == "" {
		return ""
	}
	return spec.Annotations[annotationPodNamespace] + "/" + name
}
