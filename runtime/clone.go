package runtime

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/runtime/template"
)

// wakeTimeout is how long a clone's agent may take to call: under emulation it takes a fifth of a second, and on a very busy host
// seconds. After that the sandbox boots.
const wakeTimeout = 20 * time.Second

// startClone starts a machine as a clone, and returns when its agent is ready. On error everything is undone but the template.
func startClone(ctx context.Context, plan machinePlan, driver hypervisor.Driver, parent *undo) (_ started, err error) {
	if needed := plan.ports(); needed > hypervisor.DefaultPorts {
		return started{}, fmt.Errorf("it needs %d ports for devices, and a clone has %d: %w", needed, hypervisor.DefaultPorts,
			errdefs.ErrResourceExhausted)
	}
	done := plan.times.stage("template")
	store := template.Open(plan.config.Template.Dir)
	config := plan.template()
	ingredients, dir, err := useTemplate(ctx, store, driver, config)
	if err != nil {
		return started{}, err
	}
	done()
	steps := &undo{}
	spoilt := false // the template is no good
	defer func() {
		if err == nil {
			return
		}
		undoCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		err = errors.Join(err, steps.run(undoCtx, newTrace()))
		if spoilt && ctx.Err() == nil {
			err = errors.Join(err, store.Discard(ingredients))
		}
	}()
	machine, guest, err := assemble(ctx, plan, steps, func(ctx context.Context) (hypervisor.Machine, error) {
		config := config // what only the clone has is no part of the template
		config.Shares = []hypervisor.Share{plan.share()}
		machine, err := driver.Restore(ctx, config, dir)
		spoilt = err != nil && !errdefs.IsNotFound(err) // it was removed meanwhile
		return machine, err
	})
	if err != nil {
		return started{}, err
	}
	wakeCtx, cancel := context.WithTimeout(ctx, wakeTimeout)
	defer cancel()
	done = plan.times.stage("wake")
	if _, err := guest.WaitReady(wakeCtx); err != nil {
		spoilt = true
		return started{}, fmt.Errorf("the clone does not wake: %w", err)
	}
	done()
	parent.take(steps)
	return started{machine: machine, guest: guest, frame: plan.bare, template: template.ID(ingredients)}, nil
}

// template describes the machine that sandboxes of this configuration are clones of.
func (p *machinePlan) template() hypervisor.Config {
	config := p.machine(p.bare, hypervisor.DefaultPorts)
	config.Cmdline = append(config.Cmdline, protocol.ParkParameter)
	return config
}

// useTemplate returns the directory of the template for a machine, made if need be, and what it is made of.
func useTemplate(
	ctx context.Context, store *template.Store, driver hypervisor.Driver, config hypervisor.Config,
) (ingredients []hypervisor.Ingredient, dir string, err error) {
	if ingredients, err = driver.Ingredients(config); err != nil {
		return nil, "", err
	}
	ingredients = append(ingredients, hypervisor.Ingredient{Name: "limpet", Value: limpetVersion()})
	dir, err = store.Use(ctx, ingredients, func(ctx context.Context, dir string) error {
		return buildTemplate(ctx, driver, config, dir)
	})
	return ingredients, dir, err
}

// limpetVersion is what this program says of itself: its version and revision as far as they are known.
func limpetVersion() string {
	text := fmt.Sprint("protocol ", protocol.Version)
	if info, ok := debug.ReadBuildInfo(); ok {
		text += ", " + info.Main.Version
	}
	return text
}

// buildTemplate boots a machine until it parks, and saves it.
func buildTemplate(ctx context.Context, driver hypervisor.Driver, config hypervisor.Config, dir string) (err error) {
	config.Parks = true
	machine, err := driver.Boot(ctx, config)
	if err != nil {
		return err
	}
	defer func() {
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		err = errors.Join(err, machine.Stop(stopCtx))
	}()
	if err := machine.Resume(ctx); err != nil {
		return err
	}
	if err := machine.Parked(ctx); err != nil {
		return err
	}
	return machine.Save(ctx, dir)
}
