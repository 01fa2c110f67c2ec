package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/runtime"
	"github.com/limpet-run/limpet/runtime/template"
)

// templatesOf makes a store with templates of these identifiers, each saved by nobody, and a configuration that names it.
func templatesOf(t *testing.T, ids ...string) (config string, store *template.Store) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "templates")
	for _, id := range ids {
		if err := os.MkdirAll(filepath.Join(dir, id), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		about := `{"made": "2026-01-02T03:04:05Z", "build_ms": 1234, "ingredients": [{"name": "kernel", "path": "/k", "value": "1"}]}`
		if err := os.WriteFile(filepath.Join(dir, id, "template.json"), []byte(about), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	config = filepath.Join(t.TempDir(), "limpet.toml")
	text := fmt.Sprintf("kernel = '/nowhere/vmlinux'\n[template]\ndir = %q\n", dir)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return config, template.Open(dir)
}

const oneTemplate, otherTemplate = "0123456789abcdef", "0fedcba987654321"

func TestTemplateCommands(t *testing.T) {
	both := []string{oneTemplate, otherTemplate}
	for _, test := range []struct {
		name string
		ids  []string
		args []string
		want outcome
		left []string
	}{
		{"none", nil, []string{"ls"}, outcome{0, []string{"TEMPLATE STATE AGE SIZE BUILD KERNEL IMAGE PROBLEM"}, nil}, nil},
		{"list", both, []string{"ls"}, outcome{0, []string{
			oneTemplate + " stale", otherTemplate + " stale", "1.23s /k - it is of another limpet",
		}, nil}, both},
		{"inspect", both, []string{"inspect", "01"}, outcome{0, []string{`"id": "` + oneTemplate, `"state": "stale"`, `"path": "/k"`}, nil}, both},
		{"inspect several", both, []string{"inspect", "0"}, outcome{exitFailure, nil, []string{"2 templates begin", "template ls"}}, both},
		{"inspect nothing", both, []string{"inspect"}, outcome{exitUsage, nil, []string{"inspect TEMPLATE"}}, both},
		{"inspect another", both, []string{"inspect", "2"}, outcome{exitFailure, nil, []string{`"2"`, "not found", "template ls"}}, both},
		{"remove one", both, []string{"rm", "01"}, outcome{0, []string{oneTemplate}, nil}, both[1:]},
		{"remove some", both, []string{"rm", "01", "3", "0f"}, outcome{exitFailure, []string{oneTemplate, otherTemplate}, []string{`"3"`}}, nil},
		{"remove all", both, []string{"rm", "--all"}, outcome{0, []string{oneTemplate, otherTemplate}, nil}, nil},
		{"remove stale", both, []string{"rm", "--stale"}, outcome{0, []string{oneTemplate, otherTemplate}, nil}, nil},
		{"remove all of none", nil, []string{"rm", "--all"}, outcome{0, nil, nil}, nil},
		{"remove nothing", both, []string{"rm"}, outcome{exitUsage, nil, []string{"rm TEMPLATE..."}}, both},
		{"remove all and one", both, []string{"rm", "--all", "01"}, outcome{exitUsage, nil, []string{`"01"`}}, both},
		{"remove all and stale", both, []string{"rm", "--all", "--stale"}, outcome{exitUsage, nil, []string{"--stale"}}, both},
		{"build too much", both, []string{"build", "x"}, outcome{exitUsage, nil, []string{`"x"`}}, both},
		{"build without a kernel", both, []string{"build"}, outcome{exitFailure, nil, []string{"/nowhere/vmlinux", "make guest"}}, both},
	} {
		t.Run(test.name, func(t *testing.T) {
			config, store := templatesOf(t, test.ids...)
			args := append([]string{"template", test.args[0], "--config", config}, test.args[1:]...)
			limpet(t, args...).expect(t, test.want)
			list, err := store.List()
			var left []string
			for _, template := range list {
				left = append(left, template.ID)
			}
			if err != nil || !slices.Equal(left, test.left) {
				t.Errorf("left are %q, %v", left, err)
			}
		})
	}
	limpet(t, "template").expect(t, outcome{0, []string{"build", "inspect"}, nil})
	limpet(t, "template", "treat").expect(t, outcome{exitUsage, nil, []string{`"treat"`}})
}

func TestTemplateJSON(t *testing.T) {
	type listing struct {
		Templates []runtime.TemplateInfo
		Starts    template.Counts
	}
	config, _ := templatesOf(t)
	var none listing
	limpet(t, "template", "ls", "--json", "--config", config).decode(t, &none)
	if none.Templates == nil || len(none.Templates) != 0 || !none.Starts.Since.IsZero() || none.Starts.Last == nil {
		t.Errorf("got %+v", none)
	}
	config, store := templatesOf(t, oneTemplate)
	if err := errors.Join(store.CountClone(t.Context()), store.CountBoot(t.Context(), "s", errors.New("no room"))); err != nil {
		t.Fatal(err)
	}
	var one listing
	limpet(t, "template", "ls", "--json", "--config", config).decode(t, &one)
	if len(one.Templates) != 1 || one.Templates[0].ID != oneTemplate || one.Templates[0].State != runtime.TemplateStale ||
		one.Starts.Clones != 1 || one.Starts.Boots != 1 || len(one.Starts.Last) != 1 || one.Starts.Last[0].Reason != "no room" {
		t.Errorf("got %+v", one)
	}
}

func TestPrintTemplates(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	list := []runtime.TemplateInfo{
		{Template: template.Template{
			ID: oneTemplate, Made: now.Add(-time.Hour), BuildMS: 1499, Bytes: 46 << 20,
			Ingredients: []hypervisor.Ingredient{{Name: "kernel", Path: "/k"}, {Name: "image", Path: "/i"}},
		}, State: runtime.TemplateCurrent},
		{Template: template.Template{ID: otherTemplate, Problem: "what\x1b[2J"}, State: runtime.TemplateStale},
	}
	counts := template.Counts{Since: now, Clones: 12, Boots: 4, Last: []template.Boot{
		{At: now.Add(-time.Minute), Sandbox: "s4", Reason: "four"}, {At: now, Sandbox: "s3", Reason: "three\x1b"},
		{At: now, Sandbox: "s2", Reason: "two"}, {At: now, Sandbox: "s1", Reason: "one"},
	}}
	var text strings.Builder
	if err := errors.Join(printTemplates(&text, list, now), printCounts(&text, template.Counts{}, now), printCounts(&text, counts, now)); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(text.String()), "\n")
	for i, line := range lines {
		lines[i] = strings.Join(strings.Fields(line), " ")
	}
	if want := []string{
		"TEMPLATE STATE AGE SIZE BUILD KERNEL IMAGE PROBLEM",
		oneTemplate + " current About an hour 46MiB 1.5s /k /i -",
		otherTemplate + " stale - 0B - - - what?[2J",
		"",
		"Sandboxes since " + now.Local().Format(time.DateTime) + ": 12 clones, 4 that booted instead.",
		"s4 booted About a minute ago: four",
		"s3 booted Less than a second ago: three?",
		"s2 booted Less than a second ago: two",
	}; !slices.Equal(lines, want) {
		t.Errorf("got\n%s", strings.Join(lines, "\n"))
	}
}
