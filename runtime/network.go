package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/limpet-run/limpet/hypervisor"
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
	plan, err := planNetwork(namespace, c.plan.NetSysctls)
	if err != nil || plan.Empty() {
		return errors.Join(err, namespace.Close())
	}
	times := newTrace()
	done := times.stage("cards")
	if err := c.plugCards(ctx, namespace, plan.Cards); err != nil {
		return err
	}
	done()
	done = times.stage("guest")
	if _, err := c.sandbox.call(ctx, connectTimeout, plan.Message); err != nil {
		return fmt.Errorf("set it up in the guest: %w", err)
	}
	done()
	times.log(ctx, c.log, "network connected")
	return nil
}

// planNetwork plans the guest's network. That of the host itself is not extended into a VM.
func planNetwork(namespace *network.Namespace, sysctls map[string]string) (network.Plan, error) {
	if own, err := namespace.IsOwn(); own || err != nil {
		return network.Plan{}, err
	}
	state, err := namespace.Read()
	if err != nil {
		return network.Plan{}, err
	}
	return network.NewPlan(state, sysctls)
}

// plugCards gives the machine its network cards. The namespace is closed when that is undone.
func (c *Container) plugCards(ctx context.Context, namespace *network.Namespace, cards []network.Card) error {
	var attached []network.Card
	c.undo.push("disconnect the network", func(context.Context) error {
		var errs []error
		for _, card := range attached {
			if c.plan.NewNetNS { // nobody else removes what is in it
				errs = append(errs, namespace.Remove(card))
			} else {
				errs = append(errs, namespace.Detach(card))
			}
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
		return namespace.Close()
	})
	if c.plan.NetNS != "" {
		record := networkRecord{Path: c.plan.NetNS, ID: namespace.ID(), Cards: cards}
		if err := c.sandbox.dir.updateContainer(c.id, func(container *containerRecord) { container.Network = &record }); err != nil {
			return err
		}
	}
	for _, card := range cards {
		tap, err := namespace.Attach(card)
		if err != nil {
			return err
		}
		attached = append(attached, card)
		err = c.sandbox.machine.Plug(ctx, hypervisor.NIC{ID: card.ID(), MAC: card.MAC, Tap: tap})
		if err = errors.Join(err, tap.Close()); err != nil {
			return fmt.Errorf("give the VM interface %s: %w", card.Interface, err)
		}
	}
	return nil
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
		for _, card := range r.Cards {
			errs = append(errs, namespace.Detach(card))
		}
	}
	return errors.Join(append(errs, namespace.Close())...)
}
