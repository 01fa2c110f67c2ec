package container

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// place makes a file below a directory, and the directories on the way to it.
func place(t *testing.T, root, file string) {
	t.Helper()
	path := filepath.Join(root, file)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestAbsences(t *testing.T) {
	const searched = "local/bin/a sbin/a bin/a last/a"
	for name, c := range map[string]struct {
		files  string
		change func(t *testing.T, root string) // after the first search
		first  string                          // what was found before it
		then   string                          // and after it
		kept   bool
	}{
		"nothing changes": {searched, func(*testing.T, string) {}, "bin/a last/a", "bin/a last/a", true},
		"the file comes":  {searched, func(t *testing.T, root string) { place(t, root, "sbin/a") }, "bin/a last/a", "sbin/a bin/a last/a", true},
		"another comes":   {searched, func(t *testing.T, root string) { place(t, root, "sbin/b") }, "bin/a last/a", "bin/a last/a", true},
		"its directory comes": {searched, func(t *testing.T, root string) { place(t, root, "local/bin/a") },
			"bin/a last/a", searched, true},
		"its directory is another": {searched, func(t *testing.T, root string) {
			place(t, root, "new/a")
			if err := os.Rename(filepath.Join(root, "sbin"), filepath.Join(root, "old")); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(filepath.Join(root, "new"), filepath.Join(root, "sbin")); err != nil {
				t.Fatal(err)
			}
		}, "bin/a last/a", "sbin/a bin/a last/a", true},
		"the one that is there goes": {searched, func(t *testing.T, root string) {
			if err := os.Remove(filepath.Join(root, "bin/a")); err != nil {
				t.Fatal(err)
			}
		}, "bin/a last/a", "bin/a last/a", true},
		"a link to nothing": {"sbin/a link bin/a", func(*testing.T, string) {}, "link bin/a", "link bin/a", true},
		"none":              {"sbin/x local/x last/x", func(*testing.T, string) {}, "sbin/x local/x last/x", "sbin/x local/x last/x", false},
		"one":               {"sbin/a", func(*testing.T, string) {}, "sbin/a", "sbin/a", false},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			place(t, root, "sbin/other")
			place(t, root, "bin/a")
			if err := os.Symlink("nowhere", filepath.Join(root, "link")); err != nil {
				t.Fatal(err)
			}
			var files []string
			for file := range strings.FieldsSeq(c.files) {
				files = append(files, filepath.Join(root, file))
			}
			below := func(files []string) string { return strings.ReplaceAll(strings.Join(files, " "), root+"/", "") }
			later := time.Now().Add(time.Hour)
			var a absences
			if got := below(a.skip(files, later)); got != c.first {
				t.Errorf("at first %q, want %q", got, c.first)
			}
			if kept := len(a.known) != 0; kept != c.kept {
				t.Errorf("remembered: %v", a.known)
			}
			c.change(t, root)
			if got := below(a.skip(files, later)); got != c.then {
				t.Errorf("then %q, want %q", got, c.then)
			}
		})
	}
}

func TestAbsencesAreKept(t *testing.T) {
	root := t.TempDir()
	place(t, root, "bin/a")
	place(t, root, "sbin/b")
	files := []string{filepath.Join(root, "sbin/a"), filepath.Join(root, "bin/a")}
	var a absences
	if a.skip(files, time.Now()); len(a.known) != 0 {
		t.Errorf("of directories that have just changed it remembers %v", a.known)
	}
	later := time.Now().Add(time.Hour)
	for range maxAbsences + 1 {
		files[0] += "a"
		a.skip(files, later)
	}
	if len(a.known) != 1 {
		t.Errorf("%d are remembered", len(a.known))
	}
	if got := a.skip([]string{"a", "bin/a"}, later); !slices.Equal(got, []string{"a", "bin/a"}) {
		t.Errorf("of relative names it skips to %q", got)
	}
}
