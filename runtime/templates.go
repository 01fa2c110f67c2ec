package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/runtime/config"
	"github.com/limpet-run/limpet/runtime/template"
)

// TemplateState is what a template is good for.
type TemplateState string

// The states of a template that there is.
const (
	TemplateCurrent TemplateState = "current" // sandboxes of this configuration are clones of it
	TemplateUsable  TemplateState = "usable"  // those of another configuration would be
	TemplateStale   TemplateState = "stale"   // what it is made of has changed, or it itself has
)

// TemplateInfo is what is known of a template.
type TemplateInfo struct {
	template.Template
	State TemplateState `json:"state"`
}

// Ingredient is the ingredient of that name; an empty one if there is none.
func (t TemplateInfo) Ingredient(name string) hypervisor.Ingredient {
	for _, ingredient := range t.Ingredients {
		if ingredient.Name == name {
			return ingredient
		}
	}
	return hypervisor.Ingredient{}
}

// Templates returns the templates that there are, the newest first.
func Templates(settings config.Config) ([]TemplateInfo, error) {
	templates, err := template.Open(settings.Template.Dir).List()
	return judgeAll(settings, templates...), err
}

// FindTemplate returns the template whose identifier begins with the given text. errdefs.ErrNotFound, errdefs.ErrInvalidArgument: several
// do.
func FindTemplate(settings config.Config, prefix string) (TemplateInfo, error) {
	found, err := template.Open(settings.Template.Dir).Find(prefix)
	if err != nil {
		return TemplateInfo{}, err
	}
	return judgeAll(settings, found)[0], nil
}

func judgeAll(settings config.Config, templates ...template.Template) []TemplateInfo {
	driver := newDriver(settings, slog.New(slog.DiscardHandler))
	current := ""
	if ingredients, err := currentIngredients(settings, driver); err == nil { // else no machine of this configuration can be made
		current = template.ID(ingredients)
	}
	infos := []TemplateInfo{}
	for _, template := range templates {
		infos = append(infos, judge(template, current, driver.CheckSaved))
	}
	return infos
}

// judge says what a template is good for. check looks at what was saved.
func judge(t template.Template, current string, check func(dir string) error) TemplateInfo {
	info := TemplateInfo{Template: t, State: TemplateUsable}
	if info.Problem == "" {
		if made := info.Ingredient(ingredientLimpet).Value; made != limpetVersion() {
			info.Problem = fmt.Sprintf("it is of another limpet (%s)", made)
		} else if err := check(t.Dir); err != nil {
			info.Problem = err.Error()
		}
	}
	switch {
	case info.Problem != "":
		info.State = TemplateStale
	case t.ID == current:
		info.State = TemplateCurrent
	}
	return info
}

// currentIngredients lists what the template of a configuration is made of.
func currentIngredients(settings config.Config, driver hypervisor.Driver) ([]hypervisor.Ingredient, error) {
	bare, err := bareFrame(settings.VM)
	if err != nil {
		return nil, err
	}
	return templateIngredients(driver, templateMachine(settings, bare))
}

// BuildTemplate makes the template of a configuration, unless it is there; built says which. progress is told what is done, as far as it
// takes time. On error nothing is left.
func BuildTemplate(
	ctx context.Context, settings config.Config, logger *slog.Logger, progress func(step string),
) (info TemplateInfo, built bool, err error) {
	bare, err := bareFrame(settings.VM)
	if err != nil {
		return TemplateInfo{}, false, err
	}
	machine := templateMachine(settings, bare)
	machine.Name = "template" // it needs no directory, as no device is plugged into it
	boot := time.Duration(settings.Timeouts.Boot)
	ctx, cancel := context.WithTimeoutCause(ctx, boot, fmt.Errorf("it took longer than %s (timeouts.boot)", boot))
	defer cancel()
	progress("wait for another process that makes a template")
	store := template.Open(settings.Template.Dir)
	id, _, err := useTemplate(ctx, store, newDriver(settings, logger), machine, func(step string) {
		built = true
		progress(step)
	})
	if err != nil {
		if ctx.Err() != nil {
			err = errors.Join(context.Cause(ctx), err)
		}
		return TemplateInfo{}, false, err
	}
	info, err = FindTemplate(settings, id)
	return info, built, err
}
