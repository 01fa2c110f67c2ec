package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/runtime/anchor"
	"github.com/limpet-run/limpet/runtime/network"
	"github.com/limpet-run/limpet/runtime/oci"
)

// namespacesTimeout is how long the agent may take to start the process that holds a pod's namespaces: 50 ms under emulation.
const namespacesTimeout = 30 * time.Second

// podRecord is what is remembered of a pod, beside its containers.
type podRecord struct {
	Anchor *hypervisor.Process `json:"anchor,omitempty"`
	// Network is set before anything is done to a namespace that others own.
	Network *networkRecord `json:"network,omitempty"`
}

// Pod is what holds a pod together, and its pause container if it has one: an anchor in the pod's network namespace, and the pod's
// network. Nothing of it runs in the guest. It ends when it is killed, or with the machine; the pod's containers go on without it. What
// it has on the host goes with the sandbox.
//
// It has the methods of a Container and of its init Process, which are safe for concurrent use.
type Pod struct {
	sandbox *Sandbox
	plan    *oci.Pod
	anchor  *anchor.Anchor
	files   map[string]string // on the host, by their paths in the containers
	network network.Plan
	link    *connection   // nil: it has no network cards
	exited  chan struct{} // closed when it has ended, and its anchor too

	mu      sync.Mutex
	claimed bool // it stands for a pause container
	life    lifecycle[processState]
	exit    ExitStatus
	ends    IO    // of the pause container
	past    Stats // what the containers that were deleted had used, of what only grows
}

// newPod does what of a pod is done before its machine is made: its anchor is started and its network planned.
func newPod(ctx context.Context, s *Sandbox, plan *oci.Pod) (*Pod, error) {
	if len(plan.Dropped) > 0 {
		s.log.Warn("parts of the pod's configuration mean nothing in a VM", "dropped", plan.Dropped)
	}
	p := &Pod{sandbox: s, plan: plan, exited: make(chan struct{}), life: lifecycle[processState]{processCreated, processMoves}}
	if err := p.writeFiles(); err != nil {
		return nil, err
	}
	if err := p.startAnchor(ctx); err != nil {
		return nil, err
	}
	namespace, err := network.Open(fmt.Sprintf("/proc/%d/ns/net", p.anchor.PID()))
	if err != nil {
		return nil, err
	}
	p.network, err = s.planNetwork(namespace, plan.NetSysctls)
	if err = errors.Join(err, namespace.Close()); err != nil {
		return nil, fmt.Errorf("the pod's network namespace %s: %w", plan.NetNS, err)
	}
	if cards := len(p.network.Cards); minPorts+cards > hypervisor.MaxPorts {
		return nil, fmt.Errorf("the pod's network namespace %s has %d interfaces that are up: a VM has room for %d: %w", plan.NetNS, cards,
			hypervisor.MaxPorts-minPorts, errdefs.ErrResourceExhausted)
	}
	return p, nil
}

// writeFiles makes the files that the pod's containers have. They go with the state directory.
func (p *Pod) writeFiles() error {
	dir := p.sandbox.dir
	if err := os.Mkdir(filepath.Join(dir.path, filesDir), 0o755); err != nil {
		return dir.failed("make the pod's files in", err)
	}
	p.files = map[string]string{}
	for destination, text := range p.plan.Files {
		file := filepath.Join(dir.path, filesDir, filepath.Base(destination))
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return dir.failed("make the pod's files in", err)
		}
		p.files[destination] = file
	}
	return nil
}

// startAnchor starts the pod's anchor, rooted in an empty directory.
func (p *Pod) startAnchor(ctx context.Context) error {
	dir := p.sandbox.dir
	if p.plan.NetNS != "" {
		if _, err := os.Stat(p.plan.NetNS); err != nil {
			return fmt.Errorf("the pod's network namespace is gone: %w: %w", err, errdefs.ErrFailedPrecondition)
		}
	}
	root := filepath.Join(dir.path, podDir)
	if err := os.Mkdir(root, 0o711); err != nil {
		return dir.failed("make the pod's root in", err)
	}
	started, err := anchor.Start(ctx, anchor.Options{
		Rootfs: root, NetNS: p.plan.NetNS, NewNetNS: p.plan.NewNetNS, Cgroup: p.sandbox.cgroup,
	})
	if err != nil {
		return err
	}
	p.anchor = started
	p.sandbox.undo.push("end the pod's anchor", started.Stop)
	process, err := hypervisor.NewProcess("anchor", started.PID())
	if err != nil {
		return err
	}
	return dir.updatePod(func(record *podRecord) { record.Anchor = &process })
}

// attach makes the pod's network cards, which are plugged into the machine before it runs. The caller closes their taps.
func (p *Pod) attach() (_ []hypervisor.NIC, err error) {
	if len(p.network.Cards) == 0 {
		return nil, nil
	}
	namespace, err := network.Open(fmt.Sprintf("/proc/%d/ns/net", p.anchor.PID()))
	if err != nil {
		return nil, err
	}
	link := p.sandbox.newConnection(namespace, p.plan.NewNetNS, p.network.Subnet)
	p.link = link
	p.sandbox.undo.push("disconnect the network", func(context.Context) error { return link.close() })
	if link.shared() {
		record := networkRecord{Path: p.plan.NetNS, ID: namespace.ID(), Cards: p.network.Cards}
		if err := p.sandbox.dir.updatePod(func(pod *podRecord) { pod.Network = &record }); err != nil {
			return nil, err
		}
	}
	var nics []hypervisor.NIC
	defer func() {
		if err != nil {
			closeTaps(nics)
		}
	}()
	for _, card := range p.network.Cards {
		nic, err := link.attach(card)
		if err != nil {
			return nil, err
		}
		nics = append(nics, nic)
	}
	return nics, link.guard()
}

func closeTaps(nics []hypervisor.NIC) {
	for _, nic := range nics {
		if nic.Tap != nil {
			nic.Tap.Close()
		}
	}
}

// setUp has the agent, which is ready, set up what is the pod's in the guest: its network and its namespaces.
func (p *Pod) setUp(ctx context.Context, times *trace) error {
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer times.stage("network")()
		if p.network.Empty() {
			return nil
		}
		if _, err := p.sandbox.call(groupCtx, connectTimeout, p.network.Message); err != nil {
			return fmt.Errorf("set up the pod's network in the guest: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		defer times.stage("namespaces")()
		return p.makeNamespaces(groupCtx)
	})
	if err := group.Wait(); err != nil {
		return err
	}
	if p.link != nil {
		p.sandbox.forwardPorts(ctx, p.link)
	}
	return nil
}

// makeNamespaces makes what the pod's containers share. A pod without a host name has the host's, as its containers are told by CRI.
func (p *Pod) makeNamespaces(ctx context.Context) (err error) {
	message := p.plan.Message()
	if message.Hostname == "" {
		if message.Hostname, err = os.Hostname(); err != nil {
			return fmt.Errorf("the host's name: %w", err)
		}
	}
	if _, err := p.sandbox.call(ctx, namespacesTimeout, message); err != nil {
		return fmt.Errorf("make the pod's namespaces in the guest: %w", err)
	}
	return nil
}

// follow ends the pod if somebody has killed what stands for it on the host.
func (p *Pod) follow() {
	if p.anchor.Wait() {
		p.sandbox.log.Warn("the pod's process on the host was killed", "pid", p.anchor.PID())
		p.end(killedStatus())
	}
}

// end ends the pod, unless it has ended before.
func (p *Pod) end(status ExitStatus) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.life.move(processStopped); err != nil {
		return
	}
	p.exit = status
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), anchorGrace)
		defer cancel()
		if err := p.anchor.Stop(ctx); err != nil {
			p.sandbox.log.Warn("anchor not stopped", "error", err)
		}
		p.ends.close()
		close(p.exited)
	}()
}

// podFiles are the files that the pod's containers have, by their paths there; none if the sandbox is no pod.
func (s *Sandbox) podFiles() map[string]string {
	if s.pod == nil {
		return nil
	}
	return s.pod.files
}

// Pod is what makes the sandbox a pod; nil for a sandbox that is none.
func (s *Sandbox) Pod() *Pod { return s.pod }

// podPlan is what the pod was made after; nil for a sandbox that is none.
func (s *Sandbox) podPlan() *oci.Pod {
	if s.pod == nil {
		return nil
	}
	return s.pod.plan
}

// CreatePause makes the pod stand for its pause container, whose identifier is the sandbox's. What it has of the host was made with the
// sandbox. A second time it is an ErrAlreadyExists.
func (p *Pod) CreatePause(options ContainerOptions) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.claimed {
		options.IO.close()
		return fmt.Errorf("create container %s: %w", options.ID, errdefs.ErrAlreadyExists)
	}
	p.claimed, p.ends = true, options.IO
	return nil
}

// PID is the host process that stands for the pod: its anchor.
func (p *Pod) PID() int { return p.anchor.PID() }

// Start lets the pod run. One that has ended, or runs, is an ErrFailedPrecondition.
func (p *Pod) Start(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.life.move(processStarting); err != nil {
		return fmt.Errorf("start pod %s: it %w", p.sandbox.id, err)
	}
	p.life.mustMove(processRunning)
	return nil
}

// Kill ends the pod by the signals that end a pause container; others do nothing. One that has ended is an ErrNotFound.
func (p *Pod) Kill(_ context.Context, signal uint32, _ bool) error {
	p.mu.Lock()
	stopped := p.life.in(processStopped, processDeleted)
	p.mu.Unlock()
	if stopped {
		return fmt.Errorf("kill pod %s: it has ended: %w", p.sandbox.id, errdefs.ErrNotFound)
	}
	switch unix.Signal(signal) {
	case unix.SIGTERM, unix.SIGINT, unix.SIGKILL:
		p.end(ExitStatus{Code: 128 + signal, At: time.Now(), Reason: fmt.Sprintf("signal: %d", signal)})
	}
	return nil
}

// Wait returns how the pod ended, once it has. Any number of callers may wait.
func (p *Pod) Wait(ctx context.Context) (ExitStatus, error) {
	select {
	case <-p.exited:
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.exit, nil
	case <-ctx.Done():
		return ExitStatus{}, fmt.Errorf("wait for pod %s: %w", p.sandbox.id, context.Cause(ctx))
	}
}

// Status tells what is known of the pod.
func (p *Pod) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	status := Status{State: StateRunning, PID: p.PID(), Exit: p.exit}
	switch {
	case p.life.in(processStopped, processDeleted):
		status.State = StateStopped
	case p.life.in(processCreated, processStarting):
		status.State = StateCreated
	}
	return status
}

// Pids lists the anchor, until the pod is deleted. See Container.Pids.
func (p *Pod) Pids() []Pid {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.life.state == processDeleted {
		return nil
	}
	return []Pid{{PID: uint32(p.PID())}}
}

// Delete forgets a pod that has ended or was never started, and returns how it ended. While it runs it is an ErrFailedPrecondition; once
// deleted, an ErrNotFound.
func (p *Pod) Delete(ctx context.Context) (ExitStatus, error) {
	p.mu.Lock()
	state := p.life.state
	p.mu.Unlock()
	switch state {
	case processDeleted:
		return ExitStatus{}, fmt.Errorf("delete pod %s: %w", p.sandbox.id, errdefs.ErrNotFound)
	case processCreated:
		p.end(killedStatus())
	case processStarting, processRunning:
		return ExitStatus{}, fmt.Errorf("delete pod %s: it is %s: %w", p.sandbox.id, state, errdefs.ErrFailedPrecondition)
	}
	exit, err := p.Wait(ctx)
	if err != nil {
		return ExitStatus{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.life.move(processDeleted); err != nil { // by another call meanwhile
		return ExitStatus{}, fmt.Errorf("delete pod %s: %w", p.sandbox.id, errdefs.ErrNotFound)
	}
	return exit, nil
}

// Exec is refused: there is no process in the guest to join.
func (p *Pod) Exec(context.Context, ExecOptions) error { return p.refuse("exec in") }

// Pause is refused.
func (p *Pod) Pause(context.Context) error { return p.refuse("pause") }

// Resume is refused.
func (p *Pod) Resume(context.Context) error { return p.refuse("resume") }

// Resize does nothing: there is no terminal.
func (p *Pod) Resize(context.Context, uint32, uint32) error { return nil }

// Update is refused: the pod's limits are those of its cgroup on the host.
func (p *Pod) Update(context.Context, *specs.LinuxResources) error { return p.refuse("update") }

func (p *Pod) refuse(what string) error {
	return fmt.Errorf("%s the pause container of pod %s: no process of it runs in the VM: use a container of the pod: %w", what, p.sandbox.id,
		errdefs.ErrNotImplemented)
}
