package install

import (
	"bytes"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

var update = flag.Bool("update", false, "write what is planned to testdata")

const mainPath = "/etc/containerd/config.toml"

// TestPlanContainerdGolden plans for each configuration of testdata: before.toml, which need not be there, becomes after.toml with the
// drop-in limpet.toml; a file that is not there is not written. What is planned then needs nothing more, and its removal brings back
// what was.
func TestPlanContainerdGolden(t *testing.T) {
	dirs, err := filepath.Glob("testdata/*")
	if err != nil || len(dirs) == 0 {
		t.Fatal(dirs, err)
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			files := containerdFiles{path: mainPath, main: golden(t, dir, "before.toml")}
			plan, err := planContainerd(files, "")
			if err != nil {
				t.Fatal(err)
			}
			wantGolden(t, dir, "after.toml", plan.main)
			wantGolden(t, dir, "limpet.toml", plan.dropIn)
			checkAgain(t, files, plan)
			checkRemoval(t, files, plan)
		})
	}
}

// after are the files as they are when the plan is done.
func (p containerdPlan) after(files containerdFiles) containerdFiles {
	if p.main != nil {
		files.main = p.main
	}
	if p.dropIn != nil {
		files.dropIn = p.dropIn
	}
	return files
}

func checkAgain(t *testing.T, files containerdFiles, plan containerdPlan) {
	t.Helper()
	again, err := planContainerd(plan.after(files), "")
	if err != nil || again.main != nil || again.dropIn != nil || !slices.Equal(again.kept, plan.kept) {
		t.Errorf("a second time: %v, %s%s", err, again.main, again.dropIn)
	}
}

func checkRemoval(t *testing.T, files containerdFiles, plan containerdPlan) {
	t.Helper()
	var backup []byte
	disk := map[string][]byte{}
	for _, change := range containerdChanges(files, 0o600, plan) {
		disk[change.Path] = change.Text
		if change.Path == backupPath(mainPath) {
			backup = change.Text
		}
	}
	changes, notes, err := planRemoval(plan.after(files), backup, 0o600)
	if err != nil || len(notes) > 0 {
		t.Fatal(notes, err)
	}
	for _, change := range changes {
		if change.Remove {
			delete(disk, change.Path)
		} else {
			disk[change.Path] = change.Text
		}
	}
	if main, ok := disk[mainPath]; len(disk) > 1 || len(disk) == 1 && (!ok || !bytes.Equal(main, files.main)) {
		t.Errorf("left after the removal: %q", disk)
	}
}

// golden reads a file of testdata; nil if there is none.
func golden(t *testing.T, dir, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return text
}

func wantGolden(t *testing.T, dir, name string, got []byte) {
	t.Helper()
	if *update && got != nil {
		if err := os.WriteFile(filepath.Join(dir, name), got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want := golden(t, dir, name); !bytes.Equal(got, want) || (got == nil) != (want == nil) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

func TestPlanContainerdErrors(t *testing.T) {
	section := "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.limpet]\nruntime_type = 'io.containerd.kata.v2'\n"
	for _, test := range []struct {
		name  string
		files containerdFiles
		want  []string
	}{
		{"no version", containerdFiles{main: []byte("root = '/'\n")}, []string{"version 0", "containerd config migrate"}},
		{"an empty file", containerdFiles{main: []byte{}}, []string{"version 0"}},
		{"a later version", containerdFiles{main: []byte("version = 5\n")}, []string{"version 5"}},
		{"no TOML", containerdFiles{main: []byte("version = \n")}, []string{"not valid"}},
		{"no CRI", containerdFiles{main: []byte("version = 3\ndisabled_plugins = ['io.containerd.cri.v1.runtime']\n")},
			[]string{"disables CRI", "disabled_plugins"}},
		{"another runtime's handler", containerdFiles{main: []byte("version = 3\n" + section)}, []string{"limpet", "kata"}},
		{"another's drop-in", containerdFiles{dropIn: []byte("version = 3\n")}, []string{"conf.d/limpet.toml", "move it away"}},
		{"drop-ins not read so far", containerdFiles{main: []byte("version = 3\n"), dropIns: []string{"/etc/containerd/conf.d/old.toml"}},
			[]string{"old.toml", `imports = ["conf.d/*.toml"]`}},
		{"imports with a comment", containerdFiles{main: []byte("version = 3\nimports = [\n'a.toml', # mine\n]\n")},
			[]string{"by hand", "conf.d/*.toml"}},
		{"imports that are a text's", containerdFiles{main: []byte("version = 3\nroot = '''\nimports = []\n'''\n'imports' = ['a']\n")},
			[]string{"by hand"}},
		{"a version that is not the file's", containerdFiles{main: []byte("title = '''\nversion = 1\n'''\nversion = 3\n")}, []string{"by hand"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.files.path = mainPath
			plan, err := planContainerd(test.files, "")
			if !errdefs.IsFailedPrecondition(err) || plan.main != nil || plan.dropIn != nil {
				t.Fatalf("got %+v, %v", plan, err)
			}
			for _, want := range append(test.want, mainPath) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
		})
	}
}

func TestPlanContainerdConfig(t *testing.T) {
	plan, err := planContainerd(containerdFiles{path: mainPath}, `/etc/limpet/"pods".toml`)
	if err != nil {
		t.Fatal(err)
	}
	if count := strings.Count(string(plan.dropIn), `ConfigPath = "/etc/limpet/\"pods\".toml"`); count != len(handlers) {
		t.Errorf("got\n%s", plan.dropIn)
	}
	// The other one replaces it.
	again, err := planContainerd(plan.after(containerdFiles{path: mainPath}), "")
	if err != nil || again.main != nil || again.dropIn == nil || strings.Contains(string(again.dropIn), "ConfigPath") {
		t.Errorf("%v, got\n%s", err, again.dropIn)
	}
}

func TestPlanRemovalNotes(t *testing.T) {
	before := []byte("version = 3\n")
	imported, err := addImport(before, nil)
	if err != nil {
		t.Fatal(err)
	}
	other := []string{"/etc/containerd/conf.d/other.toml"}
	dropIn := []byte(dropInHeader)
	for _, test := range []struct {
		name    string
		files   containerdFiles
		backup  []byte
		note    string
		changed string // "main" or "" besides the drop-in
	}{
		{"nothing there", containerdFiles{}, nil, "", ""},
		{"never changed", containerdFiles{main: imported, dropIn: dropIn}, nil, "", ""},
		{"as it was left", containerdFiles{main: imported, dropIn: dropIn}, before, "", "main"},
		{"changed since", containerdFiles{main: append(imported, "root = '/r'\n"...), dropIn: dropIn}, before, "changed since", ""},
		{"another drop-in since", containerdFiles{main: imported, dropIn: dropIn, dropIns: other}, before, "other drop-ins", ""},
		{"made, and another drop-in since", containerdFiles{main: newMain(), dropIn: dropIn, dropIns: other}, nil, "other drop-ins", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.files.path = mainPath
			changes, notes, err := planRemoval(test.files, test.backup, 0o644)
			if err != nil {
				t.Fatal(err)
			}
			if (test.note == "") != (len(notes) == 0) || len(notes) > 0 && !strings.Contains(notes[0], test.note) {
				t.Errorf("notes %q", notes)
			}
			main := slices.ContainsFunc(changes, func(c Change) bool { return c.Path == mainPath })
			drop := slices.ContainsFunc(changes, func(c Change) bool { return c.Path == dropInPath(mainPath) && c.Remove })
			if main != (test.changed == "main") || drop != (test.files.dropIn != nil) {
				t.Errorf("changes %v", changes)
			}
		})
	}
	another := containerdFiles{path: mainPath, dropIn: []byte("version = 3\n")}
	if _, _, err := planRemoval(another, nil, 0o644); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("another's drop-in: %v", err)
	}
}

func TestImports(t *testing.T) {
	for _, test := range []struct {
		list []string
		want bool
	}{
		{nil, false},
		{[]string{"/etc/containerd/conf.d/*.toml"}, true},
		{[]string{"conf.d/*.toml"}, true},
		{[]string{"./conf.d/limpet.toml"}, true},
		{[]string{"/etc/other/*.toml", "/etc/containerd/*/limpet.toml"}, true},
		{[]string{"/etc/containerd/*.toml"}, false},
		{[]string{"conf.d/[a-z]impet.toml"}, false}, // no star: containerd takes it for a name
		{[]string{"conf.d/[*.toml"}, false},
	} {
		if got := imports(mainPath, test.list, dropInPath(mainPath)); got != test.want {
			t.Errorf("%q: %v", test.list, got)
		}
	}
}
