package integration

import (
	"path/filepath"
	"testing"

	limpet "github.com/limpet-run/limpet/runtime"
	"github.com/limpet-run/limpet/runtime/template"
)

// templateList is what `limpet template ls --json` prints.
type templateList struct {
	Templates []limpet.TemplateInfo
	Starts    template.Counts
}

// TestTemplateCommand builds a template by hand, starts sandboxes of it, and removes it while one runs.
func TestTemplateCommand(t *testing.T) {
	s := limpetOnly(t)
	s.configure(map[string]any{"template": map[string]any{"enabled": true, "dir": filepath.Join(t.TempDir(), "templates")}})
	list := func() (list templateList) {
		s.Helper()
		s.limpetJSONWith(s.config, &list, "template", "ls", "--json")
		return list
	}
	if list := list(); len(list.Templates) != 0 || list.Starts.Clones != 0 {
		t.Errorf("before: %+v", list)
	}
	var built, again struct {
		limpet.TemplateInfo
		Built bool
	}
	s.limpetJSONWith(s.config, &built, "template", "build", "--json")
	s.limpetJSONWith(s.config, &again, "template", "build", "--json")
	if !built.Built || again.Built || built.ID != again.ID || built.State != limpet.TemplateCurrent || built.BuildMS <= 0 {
		t.Errorf("built %+v, then %+v", built, again)
	}
	// Memory that the guest has used, the kernel's and the agent's, and not all that it has.
	if built.Bytes < 10<<20 || built.Bytes > 200<<20 {
		t.Errorf("it takes %d bytes", built.Bytes)
	}

	c := s.sleeper()
	var sandbox limpet.SandboxInfo
	var trace limpet.Trace
	s.limpetJSON(&sandbox, "inspect", c.id)
	s.limpetJSON(&trace, "trace", "--json", c.id)
	if sandbox.Template != built.ID || trace.Template != built.ID {
		t.Errorf("a clone of %q and %q, not of %s", sandbox.Template, trace.Template, built.ID)
	}
	result := s.limpetWith(s.config, "template", "rm", built.ID[:4])
	s.must(result.Err())
	if result.Stdout != built.ID+"\n" {
		t.Errorf("rm: %q", result.Stdout)
	}
	s.must(c.exec(nil, "true").Err())
	if list := list(); len(list.Templates) != 0 || list.Starts.Clones != 1 || list.Starts.Boots != 0 {
		t.Errorf("after the removal: %+v", list)
	}
	s.output(nil, "true") // makes it again
	text := s.limpetWith(s.config, "template", "ls")
	s.must(text.Err())
	s.wantRow(text.Stdout, built.ID, "current")
	s.wantRow(text.Stdout, "2 clones, 0 that booted instead.")
	s.must(s.limpetWith(s.config, "template", "rm", "--all").Err())
}

// TestTemplatesOff has sandboxes boot that are not asked to be clones: nothing is counted, and nothing made.
func TestTemplatesOff(t *testing.T) {
	s := limpetOnly(t)
	dir := filepath.Join(t.TempDir(), "templates")
	s.configure(map[string]any{"template": map[string]any{"enabled": false, "dir": dir}})
	c := s.sleeper()
	var sandbox limpet.SandboxInfo
	s.limpetJSON(&sandbox, "inspect", c.id)
	if sandbox.Template != "" {
		t.Errorf("a clone of %s", sandbox.Template)
	}
	if left, err := filepath.Glob(dir + "*"); err != nil || len(left) > 0 {
		t.Errorf("there is %q, %v", left, err)
	}
}
