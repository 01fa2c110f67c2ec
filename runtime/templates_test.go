package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/runtime/config"
	"github.com/limpet-run/limpet/runtime/template"
)

func TestJudgeTemplate(t *testing.T) {
	made := func(limpet string) template.Template {
		return template.Template{ID: "a", Dir: "/a", Ingredients: []hypervisor.Ingredient{{Name: ingredientLimpet, Value: limpet}}}
	}
	ours, unread := made(limpetVersion()), template.Template{ID: "a", Dir: "/a", Problem: "not JSON"}
	for _, test := range []struct {
		name     string
		template template.Template
		current  string
		check    error
		want     TemplateState
		says     string
	}{
		{"the one", ours, "a", nil, TemplateCurrent, ""},
		{"another configuration's", ours, "b", nil, TemplateUsable, ""},
		{"no configuration's", ours, "", nil, TemplateUsable, ""},
		{"changed", ours, "a", errors.New("the kernel is another"), TemplateStale, "the kernel is another"},
		{"another limpet's", made("protocol 0, v0"), "a", nil, TemplateStale, "protocol 0, v0"},
		{"not to be read", unread, "a", nil, TemplateStale, "not JSON"},
	} {
		info := judge(test.template, test.current, func(dir string) error {
			if dir != "/a" {
				t.Errorf("%s: looks at %s", test.name, dir)
			}
			return test.check
		})
		if info.State != test.want || !strings.Contains(info.Problem, test.says) || (info.Problem == "") != (test.says == "") {
			t.Errorf("%s: %+v", test.name, info)
		}
	}
}

// TestTemplatesOfNothing lists the templates of a store with rubbish in it, by a configuration of which no machine can be made.
func TestTemplatesOfNothing(t *testing.T) {
	settings := config.Default()
	settings.Kernel = "/nowhere/vmlinux"
	settings.Template.Dir = t.TempDir()
	if list, err := Templates(settings); err != nil || list == nil || len(list) != 0 {
		t.Errorf("got %v, %v", list, err)
	}
	dir := filepath.Join(settings.Template.Dir, "0123456789abcdef")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`{"ingredients": [{"name": "limpet", "value": %q}]}`, limpetVersion())
	if err := os.WriteFile(filepath.Join(dir, "template.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := FindTemplate(settings, "01")
	if err != nil || info.State != TemplateStale || !strings.Contains(info.Problem, "no saved machine") {
		t.Errorf("got %+v, %v", info, err)
	}
}

// fakeDriver makes machines that write down what is done with them, and fail at one step.
type fakeDriver struct {
	hypervisor.Driver
	fails string
	done  *[]string
}

func (d fakeDriver) step(name string) error {
	*d.done = append(*d.done, name)
	if d.fails == name {
		return errors.New(name + " fails")
	}
	return nil
}

func (d fakeDriver) Ingredients(config hypervisor.Config) ([]hypervisor.Ingredient, error) {
	return []hypervisor.Ingredient{{Name: hypervisor.IngredientArguments, Value: strings.Join(config.Cmdline, " ")}}, d.step("ingredients")
}

func (d fakeDriver) Boot(_ context.Context, config hypervisor.Config) (hypervisor.Machine, error) {
	if !config.Parks || !slices.Contains(config.Cmdline, protocol.ParkParameter) || config.Ports != hypervisor.DefaultPorts {
		return nil, fmt.Errorf("a machine that does not park: %+v", config)
	}
	return bootedFake{driver: d}, d.step("boot")
}

type bootedFake struct {
	hypervisor.Machine
	driver fakeDriver
}

func (m bootedFake) Resume(context.Context) error { return m.driver.step("resume") }
func (m bootedFake) Parked(context.Context) error { return m.driver.step("parked") }
func (m bootedFake) Stop(context.Context) error   { return m.driver.step("stop") }
func (m bootedFake) Save(_ context.Context, dir string) error {
	return errors.Join(os.WriteFile(filepath.Join(dir, "memory"), nil, 0o600), m.driver.step("save"))
}

// TestUseTemplate makes a template, with a step that fails, too: the machine is stopped then, and nothing is left.
func TestUseTemplate(t *testing.T) {
	machine := templateMachine(config.Default(), frame{vcpus: 1, memory: 256})
	for _, test := range []struct{ fails, done string }{
		{"", "ingredients boot resume parked save stop"},
		{"ingredients", "ingredients"},
		{"boot", "ingredients boot"},
		{"resume", "ingredients boot resume stop"},
		{"parked", "ingredients boot resume parked stop"},
		{"save", "ingredients boot resume parked save stop"},
		{"stop", "ingredients boot resume parked save stop"},
	} {
		store := filepath.Join(t.TempDir(), "templates")
		var done, steps []string
		driver := fakeDriver{fails: test.fails, done: &done}
		id, dir, err := useTemplate(t.Context(), template.Open(store), driver, machine, func(step string) { steps = append(steps, step) })
		if got := strings.Join(done, " "); got != test.done {
			t.Errorf("%s fails: done was %s", test.fails, got)
		}
		list, listErr := template.Open(store).List()
		if listErr != nil {
			t.Fatal(listErr)
		}
		if test.fails != "" {
			if err == nil || !strings.Contains(err.Error(), test.fails+" fails") || len(list) > 0 {
				t.Errorf("%s fails: %v, %v", test.fails, err, list)
			}
			continue
		}
		if err != nil || len(list) != 1 || list[0].ID != id || list[0].Dir != dir || len(steps) != 3 {
			t.Errorf("got %s, %s, %v: %+v after %q", id, dir, err, list, steps)
		}
		done = nil
		if _, _, err := useTemplate(t.Context(), template.Open(store), driver, machine, nil); err != nil || !slices.Equal(done, []string{"ingredients"}) {
			t.Errorf("once more: %v, done was %q", err, done)
		}
	}
}
