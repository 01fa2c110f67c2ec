package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/runtime/forward"
	"github.com/limpet-run/limpet/runtime/network"
)

// connectTimeout is how long the guest may take to find its network cards and to set them up: a card comes in a fifth of a second
// under emulation.
const connectTimeout = 30 * time.Second

// networkRecord is what is remembered of a network namespace that is not the container's own, and outlives it.
type networkRecord struct {
	Path  string         `json:"path"`
	ID    string         `json:"id"` // see network.Namespace
	Cards []network.Card `json:"cards"`
}

// connect gives the guest the network of its first container's namespace. That is done when this container starts: by then the
// interfaces are there, whether hooks made them or somebody who learnt the task's pid from its creation.
func (c *Container) connect(ctx context.Context) error {
	if !c.first {
		if len(c.plan.NetSysctls) > 0 {
			c.log.Warn("the network is that of the sandbox's first container", "dropped", c.plan.NetSysctls)
		}
		return nil
	}
	namespace, err := network.Open(fmt.Sprintf("/proc/%d/ns/net", c.anchor.PID()))
	if err != nil {
		return err
	}
	plan, err := c.sandbox.planNetwork(namespace, c.plan.NetSysctls)
	if err != nil || plan.Empty() {
		return errors.Join(err, namespace.Close())
	}
	link := c.sandbox.newConnection(namespace, c.plan.NewNetNS, plan.Subnet)
	c.undo.push("disconnect the network", func(context.Context) error { return link.close() })
	if err := c.join(ctx, link, plan); err != nil {
		return errors.Join(err, link.close())
	}
	return nil
}

// join gives the machine its network cards, and has the agent set them up.
func (c *Container) join(ctx context.Context, link *connection, plan network.Plan) error {
	times := newTrace()
	done := times.stage("cards")
	if link.shared() {
		record := networkRecord{Path: c.plan.NetNS, ID: link.namespace.ID(), Cards: plan.Cards}
		if err := c.sandbox.dir.updateContainer(c.id, func(container *containerRecord) { container.Network = &record }); err != nil {
			return err
		}
	}
	for _, card := range plan.Cards {
		if err := c.plug(ctx, link, card); err != nil {
			return fmt.Errorf("give the VM interface %s: %w", card.Interface, err)
		}
	}
	if err := link.guard(); err != nil {
		return err
	}
	done()
	done = times.stage("guest")
	if _, err := c.sandbox.call(ctx, connectTimeout, plan.Message); err != nil {
		return fmt.Errorf("set it up in the guest: %w", err)
	}
	done()
	done = times.stage("ports")
	c.sandbox.forwardPorts(ctx, link)
	done()
	times.log(ctx, c.log, "network connected")
	return nil
}

func (c *Container) plug(ctx context.Context, link *connection, card network.Card) error {
	nic, err := link.attach(card)
	if err != nil {
		return err
	}
	defer closeTaps([]hypervisor.NIC{nic}) // the machine has a duplicate
	return c.sandbox.machine.Plug(ctx, nic)
}

// planNetwork plans the guest's network, as far as the sandbox may reach it.
func (s *Sandbox) planNetwork(namespace *network.Namespace, sysctls map[string]string) (network.Plan, error) {
	plan, err := planNetwork(namespace, sysctls)
	if err == nil && s.egress != nil {
		err = plan.Restrict(s.egress.policy.Ranges())
	}
	return plan, err
}

// planNetwork plans the guest's network. That of the host itself is not extended into a VM: the guest speaks from there.
func planNetwork(namespace *network.Namespace, sysctls map[string]string) (network.Plan, error) {
	host, err := namespace.IsOwn()
	if err != nil {
		return network.Plan{}, err
	}
	state, err := namespace.Read()
	if err != nil {
		return network.Plan{}, err
	}
	if host {
		return network.NewHostPlan(state, sysctls)
	}
	return network.NewPlan(state, sysctls)
}

// connection is what the host has of a sandbox's network. It may be closed while it is being made.
type connection struct {
	namespace *network.Namespace
	own       bool         // the namespace is the container's own: nobody else removes what is in it
	subnet    netip.Prefix // valid: the namespace is the host's, in which nothing is made; see network.Plan
	forwarder *forward.Forwarder
	egress    *egressGuard // nil: everything may be reached
	log       *slog.Logger

	mu       sync.Mutex // held only for the kernel's answers
	attached []network.Card
	refusals *network.Refusals // nil: nobody listens
	closed   bool
}

// newConnection takes over the namespace. The agent is not spoken to before there is something to forward.
func (s *Sandbox) newConnection(namespace *network.Namespace, own bool, subnet netip.Prefix) *connection {
	return &connection{
		namespace: namespace, own: own, subnet: subnet, forwarder: forward.New(s.dialPort, s.log), egress: s.egress, log: s.log,
	}
}

// isHost tells whether the network is the host's.
func (l *connection) isHost() bool { return l.subnet.IsValid() }

// shared tells whether something is made in a namespace that outlives the sandbox.
func (l *connection) shared() bool { return !l.own && !l.isHost() }

// attach makes the host's part of a card. The caller closes its tap.
func (l *connection) attach(card network.Card) (hypervisor.NIC, error) {
	nic := hypervisor.NIC{ID: card.ID(), MAC: card.MAC, Subnet: l.subnet}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nic, errdefs.ErrUnavailable
	}
	if l.isHost() {
		return nic, nil
	}
	var err error
	if nic.Tap, err = l.namespace.Attach(card); err == nil {
		l.attached = append(l.attached, card)
	}
	return nic, err
}

// close takes back what attach and forward did. It may be called again, also to try what failed.
func (l *connection) close() error {
	if l.egress != nil {
		l.egress.filter.RemoveGate(l)
	}
	err := l.release()
	l.forwarder.Close()
	return err
}

// release takes back what was done to the namespace.
func (l *connection) release() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	detach := l.namespace.Detach
	if l.own {
		detach = l.namespace.Remove
	}
	var errs []error
	if l.shared() { // the rules of its own go with the namespace
		errs = append(errs, l.namespace.ReleaseLoopback())
	}
	for _, card := range l.attached {
		errs = append(errs, detach(card))
	}
	if l.refusals != nil {
		errs = append(errs, l.refusals.Close())
		l.refusals = nil
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	l.closed = true
	return l.namespace.Close()
}

// cleanup detaches what a killed shim left attached. A namespace that is gone, or another one now, has nothing of it.
func (r networkRecord) cleanup() error {
	namespace, err := network.Open(r.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	if namespace.ID() == r.ID {
		errs = append(errs, namespace.ReleaseLoopback())
		for _, card := range r.Cards {
			errs = append(errs, namespace.Detach(card))
		}
	}
	return errors.Join(append(errs, namespace.Close())...)
}
