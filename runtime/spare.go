package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/runtime/cgroup"
	"github.com/limpet-run/limpet/runtime/config"
)

// spareNamespace is the namespace of spares in their records. It is none of containerd's, whose names have no space.
const spareNamespace = "no namespace"

// spareState is what is remembered of a spare: whether it waits.
type spareState string

const (
	spareMaking spareState = "making"
	spareParked spareState = "parked"
)

// Spare is a machine that waits for its sandbox: a clone whose agent is ready, and has run a container already. One sandbox can have it
// (SandboxOptions.Spare); until then its owner must Stop it.
//
// It is a sandbox that is parked: with a state directory of its own name, and without all that a sandbox is asked for.
type Spare struct {
	sandbox *Sandbox
	config  config.Config
	// template names the template of a plan's clones. See templateOf.
	template func(machinePlan) (string, error)
	over     chan struct{} // closed when a sandbox has it, or when one that was to have it has let it end
}

// SpareOptions says what spare to make.
type SpareOptions struct {
	Config config.Config
	// Logger is the sandbox's, too, that the spare becomes. It may write elsewhere from then on.
	Logger *slog.Logger
}

// NewSpare makes a spare. On error everything is undone. Where there are no templates it is an errdefs.ErrFailedPrecondition.
func NewSpare(ctx context.Context, options SpareOptions) (*Spare, error) {
	if !options.Config.Template.Enabled {
		return nil, fmt.Errorf("a spare is a clone: set template.enabled: %w", errdefs.ErrFailedPrecondition)
	}
	return newSpare(ctx, options, startQEMU, templateOf)
}

func newSpare(
	ctx context.Context, options SpareOptions, start platform, template func(machinePlan) (string, error),
) (*Spare, error) {
	id := fmt.Sprint("spare-", os.Getpid())
	s := blankSandbox(options.Logger.With("sandbox", id))
	times := newTrace()
	s.identify(SandboxOptions{ID: id, Namespace: spareNamespace}, times.began)
	if err := s.park(ctx, options, start, times); err != nil {
		defer s.undo.take(&s.parked)
		return nil, s.abandon(ctx, fmt.Errorf("make a spare: %w", err))
	}
	times.log(ctx, s.log, "spare made")
	return &Spare{s, options.Config, template, make(chan struct{})}, nil
}

// park starts a machine for a sandbox that is not known yet.
func (s *Sandbox) park(ctx context.Context, options SpareOptions, start platform, times *trace) (err error) {
	bare, err := bareFrame(options.Config.VM)
	if err != nil {
		return err
	}
	first := record{
		Namespace: s.namespace, ID: s.id, Spare: spareMaking, Size: bare.record(s.size), Containers: map[string]containerRecord{}, Began: s.began,
	}
	if err := s.takeDir(ctx, options.Config.StateDir, first); err != nil {
		return err
	}
	ctx, cancel := withBootTimeout(ctx, options.Config)
	defer cancel()
	plan := s.plan(needs{config: options.Config, frame: bare, bare: bare}, options.Logger, times)
	if err := s.bootOn(ctx, plan, start, &s.parked); err != nil {
		return because(ctx, err)
	}
	if s.dir.record.Template == "" {
		return fmt.Errorf("a spare is a clone, and this machine is none: %w", errdefs.ErrFailedPrecondition)
	}
	if err := s.run(); err != nil {
		return err
	}
	done := times.stage("rehearsal")
	if err := s.rehearse(ctx, options.Config.Tools); err != nil {
		return fmt.Errorf("rehearse: %w", err)
	}
	done()
	s.mu.Lock()
	s.claimed = false
	err = s.life.move(sandboxParked)
	s.mu.Unlock()
	if err != nil { // the machine has ended meanwhile
		return s.whyLost()
	}
	return s.dir.update(func(record *record) { record.Spare = spareParked })
}

// Lost is closed when the machine has ended.
func (p *Spare) Lost() <-chan struct{} { return p.sandbox.lost }

// Processes are those that the machine consists of. Each leads a process group.
func (p *Spare) Processes() []HostProcess { return p.sandbox.machine.Processes() }

// Stop ends a spare that no sandbox has.
func (p *Spare) Stop(ctx context.Context) error {
	s := p.sandbox
	s.mu.Lock()
	err := s.life.move(sandboxStopping)
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("stop spare %s: it %w", s.id, err)
	}
	if err := errors.Join(s.parked.run(ctx, newTrace()), s.undo.run(ctx, newTrace())); err != nil {
		return fmt.Errorf("stop spare %s: %w", s.id, err)
	}
	return nil
}

// discard stops a spare that does not fit its sandbox, which goes on meanwhile. Nil: there is none.
func (p *Spare) discard() {
	if p == nil {
		return
	}
	go func() {
		defer close(p.over)
		ctx, cancel := context.WithTimeout(context.Background(), undoTimeout)
		defer cancel()
		if err := p.Stop(ctx); err != nil {
			p.sandbox.log.Warn("a spare was not stopped", "error", err)
		}
	}()
}

// become makes the spare the sandbox that the options mean. On error nothing is left of it, or will be soon.
func (p *Spare) become(ctx context.Context, options SandboxOptions, needs needs, times *trace) (*Sandbox, error) {
	s := p.sandbox
	if err := p.fits(options, needs, times); err != nil {
		p.discard()
		return nil, err
	}
	s.mu.Lock()
	err := s.life.move(sandboxCreating)
	s.mu.Unlock()
	if err != nil {
		p.discard()
		return nil, s.whyLost()
	}
	defer close(p.over)
	if err := s.begin(ctx, options, needs, nil, times); err != nil {
		return nil, err
	}
	return s, nil
}

// fits tells why the machine is not what the sandbox would have as a clone: nil, it is.
func (p *Spare) fits(options SandboxOptions, needs needs, times *trace) error {
	if what := misfit(p.config, needs.config); what != "" {
		return fmt.Errorf("it was made with another %s: %w", what, errdefs.ErrFailedPrecondition)
	}
	plan := p.sandbox.plan(needs, options.Logger, times)
	if plan.ports() > hypervisor.DefaultPorts {
		return fmt.Errorf("it has too few places for devices: %w", errdefs.ErrFailedPrecondition)
	}
	template, err := p.template(plan)
	if err != nil {
		return err
	}
	if template != p.sandbox.dir.record.Template {
		return fmt.Errorf("it is a clone of another template: %w", errdefs.ErrFailedPrecondition)
	}
	return nil
}

// misfit names the first part of the configuration that a machine cannot be given later and that is another one now; empty: there is none.
func misfit(made, wanted config.Config) string {
	for _, part := range []struct {
		key          string
		made, wanted any
	}{
		{"state_dir", made.StateDir, wanted.StateDir},
		{"kernel", made.Kernel, wanted.Kernel},
		{"image", made.Image, wanted.Image},
		{"tools", made.Tools, wanted.Tools},
		{"hypervisor", made.Hypervisor, wanted.Hypervisor},
		{"vsock", made.Vsock, wanted.Vsock},
		{"virtiofs", made.Virtiofs, wanted.Virtiofs},
		{"vm", made.VM, wanted.VM},
		{"template", made.Template, wanted.Template},
		{"egress", config.Egress{}, config.Egress{Restrict: wanted.Egress.Restrict}}, // a guest that waits has heard of the host's name servers
		{"guest_data", made.GuestData, wanted.GuestData},
	} {
		if !reflect.DeepEqual(part.made, part.wanted) {
			return part.key
		}
	}
	return ""
}

// rouse gives a machine that has waited what is the sandbox's: the time, the devices that not every sandbox has, and the cgroup.
func (s *Sandbox) rouse(ctx context.Context, plan machinePlan) error {
	defer plan.times.stage("rouse")()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.sendClock(ctx) })
	group.Go(func() error {
		defer plan.times.stage("move")()
		return s.moveMachine(plan.cgroup)
	})
	for _, device := range plan.devices() {
		group.Go(func() error { return s.machine.Plug(ctx, device) })
	}
	return group.Wait()
}

// moveMachine moves the machine's processes to the sandbox's cgroup, or if it has none to that of this process.
func (s *Sandbox) moveMachine(to hypervisor.Cgroup) error {
	host := cgroup.ThisHost()
	var pids []int
	for _, process := range s.machine.Processes() {
		group, err := process.Group()
		if err != nil {
			return err
		}
		pids = append(pids, group...)
	}
	if len(to.Directories()) == 0 {
		own, err := host.Of(os.Getpid())
		if err != nil {
			return err
		}
		to = own
	}
	return host.Move(pids, to)
}
