package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTimetable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stages")
	if err := os.WriteFile(path, []byte("61500\tguest kernel\n240\tlimpet\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var times timetable
	if err := times.read(path); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	times.begin(&out, "container")()
	if err := times.print(&out); err != nil {
		t.Fatal(err)
	}
	want := `== container
     guest kernel  61.5 s
           limpet   0.2 s
        container   0.0 s
              all  61.7 s
`
	if got := out.String(); got != want {
		t.Errorf("printed:\n%s\nwant:\n%s", got, want)
	}
}

func TestTimetableRefusesOtherFiles(t *testing.T) {
	for _, text := range []string{"guest kernel\n", "12\n", "soon\tguest kernel\n"} {
		path := filepath.Join(t.TempDir(), "stages")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := (&timetable{}).read(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: error is %v, want one that names the file", text, err)
		}
	}
}
