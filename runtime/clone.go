package runtime

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/runtime/config"
	"github.com/limpet-run/limpet/runtime/template"
)

const (
	// countTimeout is how long a start waits for others who count theirs. It takes a tenth of a millisecond.
	countTimeout = 100 * time.Millisecond
	// ingredientLimpet is the name of what limpet says of itself.
	ingredientLimpet = "limpet"
)

// cloneShare is the part of the time for a start (timeouts.boot) that a clone may take, with its template if that has to be made. The rest
// is for the boot after it.
const cloneShare = 2

// startClone starts a machine as a clone, and returns when its agent is ready. On error everything is undone, and a template that is no
// good is removed.
func startClone(ctx context.Context, plan machinePlan, driver hypervisor.Driver, parent *undo) (_ started, err error) {
	if needed := plan.ports(); needed > hypervisor.DefaultPorts {
		return started{}, fmt.Errorf("it needs %d ports for devices, and a clone has %d: %w", needed, hypervisor.DefaultPorts,
			errdefs.ErrResourceExhausted)
	}
	limit := time.Duration(plan.config.Timeouts.Boot) / cloneShare
	cloneCtx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not ready within %s, half of timeouts.boot", limit))
	defer cancel()
	done := plan.times.stage("template")
	store := template.Open(plan.config.Template.Dir)
	config := plan.template()
	began, built := time.Now(), false
	id, dir, err := useTemplate(cloneCtx, store, driver, config, func(string) { built = true })
	if err != nil {
		return started{}, because(cloneCtx, err)
	}
	done()
	if built {
		plan.log.Info("template built", "template", id, "ms", time.Since(began).Milliseconds())
	}
	steps := &undo{}
	spoilt := false // the template is no good
	defer func() {
		if err == nil {
			return
		}
		err = because(cloneCtx, err)
		undoCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		err = errors.Join(err, steps.run(undoCtx, newTrace()))
		if spoilt && ctx.Err() == nil {
			err = errors.Join(err, store.Discard(id))
		}
	}()
	machine, guest, err := assemble(cloneCtx, plan, steps, func(ctx context.Context) (hypervisor.Machine, error) {
		config := config // what only the clone has is no part of the template
		config.Shares = []hypervisor.Share{plan.share()}
		machine, err := driver.Restore(ctx, config, dir)
		spoilt = err != nil && ctx.Err() == nil && store.Has(id) // else others have removed it
		return machine, err
	})
	if err != nil {
		return started{}, err
	}
	began = time.Now()
	if err := awaitWake(cloneCtx, machine, guest); err != nil {
		spoilt = true
		return started{}, fmt.Errorf("the clone does not wake: %w", err)
	}
	plan.times.greeting(StageWake, began, guest.Greeted())
	parent.take(steps)
	return started{machine: machine, guest: guest, frame: plan.bare, template: id}, nil
}

// because adds to an error what ended the context, if something has: that says more than what a step makes of it.
func because(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return fmt.Errorf("%w: %w", context.Cause(ctx), err)
}

// awaitWake waits until a clone's agent is ready, and not for a machine that has ended.
func awaitWake(ctx context.Context, machine Machine, guest Guest) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		if err := machine.Wait(ctx); ctx.Err() == nil {
			cancel(cmp.Or(err, errors.New("it has turned itself off")))
		}
	}()
	if _, err := guest.WaitReady(ctx); err != nil {
		return because(ctx, err)
	}
	return nil
}

// template describes the machine that sandboxes of this configuration are clones of.
func (p *machinePlan) template() hypervisor.Config { return p.place(templateMachine(p.config, p.bare)) }

// templateMachine describes the machine that a template is made of, but for its place.
func templateMachine(settings config.Config, bare frame) hypervisor.Config {
	machine := bareMachine(settings, bare, hypervisor.DefaultPorts)
	machine.Cmdline = append(machine.Cmdline, protocol.ParkParameter)
	return machine
}

// templateOf names the template that a clone of this plan would have.
func templateOf(plan machinePlan) (string, error) {
	ingredients, err := templateIngredients(newDriver(plan.config, plan.logger), plan.template())
	return template.ID(ingredients), err
}

// useTemplate returns the identifier and the directory of the template for a machine, made if need be.
func useTemplate(
	ctx context.Context, store *template.Store, driver hypervisor.Driver, config hypervisor.Config, progress func(step string),
) (id, dir string, err error) {
	ingredients, err := templateIngredients(driver, config)
	if err != nil {
		return "", "", err
	}
	dir, err = store.Use(ctx, ingredients, func(ctx context.Context, dir string) error {
		return buildTemplate(ctx, driver, config, dir, progress)
	})
	return template.ID(ingredients), dir, err
}

// templateIngredients lists what the template for a machine is made of.
func templateIngredients(driver hypervisor.Driver, config hypervisor.Config) ([]hypervisor.Ingredient, error) {
	ingredients, err := driver.Ingredients(config)
	if err != nil {
		return nil, err
	}
	return append(ingredients, hypervisor.Ingredient{Name: ingredientLimpet, Value: limpetVersion()}), nil
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
func buildTemplate(
	ctx context.Context, driver hypervisor.Driver, config hypervisor.Config, dir string, progress func(step string),
) (err error) {
	config.Parks = true
	progress("start a machine")
	machine, err := driver.Boot(ctx, config)
	if err != nil {
		return err
	}
	defer func() {
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		err = errors.Join(err, machine.Stop(stopCtx))
	}()
	progress("boot it until it parks")
	if err := machine.Resume(ctx); err != nil {
		return err
	}
	if err := machine.Parked(ctx); err != nil {
		return err
	}
	progress("save it")
	return machine.Save(ctx, dir)
}

// countStart counts a sandbox as a clone, or as one that boots because of err. That a start could not be counted is no reason to fail.
func countStart(ctx context.Context, plan machinePlan, err error) {
	defer plan.times.stage("count")()
	ctx, cancel := context.WithTimeout(ctx, countTimeout)
	defer cancel()
	store := template.Open(plan.config.Template.Dir)
	if err == nil {
		err = store.CountClone(ctx)
	} else {
		err = store.CountBoot(ctx, plan.name, err)
	}
	if err != nil {
		plan.log.Warn("a start is not counted", "error", err)
	}
}
