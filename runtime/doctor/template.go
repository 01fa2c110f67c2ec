package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/runtime"
	"github.com/limpet-run/limpet/runtime/config"
	"github.com/limpet-run/limpet/runtime/template"
)

const (
	templateName = "template"
	// templateRoom is what a template takes of the disk, with some to spare: 34 MiB were measured for a machine of the default size, emulated.
	templateRoom = 64 << 20
	// countsTimeout is how long to wait for who counts a start: it takes a tenth of a millisecond.
	countsTimeout = time.Second
)

// checkTemplates tells whether sandboxes are clones. Where they are not they boot, so that it is no failure.
func checkTemplates(settings config.Config) hypervisor.Check {
	if !settings.Template.Enabled {
		return hypervisor.NewCheck(templateName, "off (template.enabled): every sandbox boots", nil)
	}
	dir := settings.Template.Dir
	err := errors.Join(template.Open(dir).Check(), os.MkdirAll(dir, 0o700))
	var disk unix.Statfs_t
	if err == nil {
		err = unix.Statfs(dir, &disk)
	}
	var templates []runtime.TemplateInfo
	if err == nil {
		templates, err = runtime.Templates(settings)
	}
	if err != nil {
		return hypervisor.Check{
			Name: templateName, OK: true, Detail: fmt.Sprintf("%s cannot be used, and every sandbox boots: %v", dir, err),
			Remedy: "make it a directory that is root's alone, or set template.dir in the configuration to another",
		}
	}
	return judgeTemplates(dir, disk.Bavail*uint64(disk.Bsize), templates)
}

// judgeTemplates tells what the first sandbox is going to do; room is what is left of the disk, in bytes.
func judgeTemplates(dir string, room uint64, templates []runtime.TemplateInfo) hypervisor.Check {
	current, stale := "", 0
	for _, template := range templates {
		switch template.State {
		case runtime.TemplateCurrent:
			current = template.ID
		case runtime.TemplateStale:
			stale++
		}
	}
	check := hypervisor.Check{Name: templateName, OK: true}
	switch {
	case current != "":
		check.Detail = fmt.Sprintf("sandboxes are clones of %s in %s", current, dir)
	case room < templateRoom:
		check.Detail = fmt.Sprintf("%s has %s left, too little for a template: every sandbox boots", dir, units.BytesSize(float64(room)))
		check.Remedy = fmt.Sprintf("make room for %s there, or set template.dir in the configuration to another directory",
			units.BytesSize(templateRoom))
	default:
		check.Detail = fmt.Sprintf("%s has none for this configuration yet: the first sandbox makes it, which takes a boot", dir)
	}
	if stale > 0 && check.Remedy == "" {
		check.Remedy = fmt.Sprintf("`limpet template rm --stale` removes %d that cannot be used any more", stale)
	}
	return check
}

// origin tells of a sandbox that is up, and that was to be a clone, whether it is one; remedy is empty if so.
func origin(ctx context.Context, settings config.Config, sandbox *runtime.Sandbox) (text, remedy string) {
	if id := sandbox.Template(); id != "" {
		return "as a clone of template " + id, ""
	}
	text, remedy = "but it booted, as it could not be a clone", "see `limpet template ls` for the reasons"
	ctx, cancel := context.WithTimeout(ctx, countsTimeout)
	defer cancel()
	counts, err := template.Open(settings.Template.Dir).Counts(ctx)
	if err != nil {
		return text, remedy
	}
	for _, boot := range counts.Last {
		if boot.Sandbox == sandbox.ID() {
			text += ": " + boot.Reason
		}
	}
	return text, remedy
}
