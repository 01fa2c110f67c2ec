package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestArchive(t *testing.T) {
	entries := []entry{
		{name: "dev", mode: modeDirectory | 0o755},
		{name: "dev/console", mode: modeCharacter | 0o600, major: 5, minor: 1},
		{name: "init", mode: modeRegular | 0o755, data: []byte("program")},
		{name: "tmp", mode: modeDirectory | modeSticky | 0o777},
		{name: "empty", mode: modeRegular | 0o644},
	}
	var archive bytes.Buffer
	if err := writeArchive(&archive, entries); err != nil {
		t.Fatal(err)
	}
	got := readArchive(t, archive.Bytes())
	if len(got) != len(entries) {
		t.Fatalf("read %d entries, want %d", len(got), len(entries))
	}
	for i, want := range entries {
		if g := got[i]; g.name != want.name || g.mode != want.mode || g.major != want.major || g.minor != want.minor ||
			!bytes.Equal(g.data, want.data) {
			t.Errorf("entry %d is %+v, want %+v", i, g, want)
		}
	}
}

func TestArchiveReportsWriteError(t *testing.T) {
	full := errors.New("no space left")
	if err := writeArchive(failingWriter{full}, contents([]byte("agent"), []byte("crun"))); !errors.Is(err, full) {
		t.Errorf("error is %v, want %v", err, full)
	}
}

func TestImageIsReproducible(t *testing.T) {
	program := staticProgram(t)
	dir := t.TempDir()
	var images [2][]byte
	for i := range images {
		out := filepath.Join(dir, strconv.Itoa(i))
		if err := run(program, program, out); err != nil {
			t.Fatal(err)
		}
		image, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		images[i] = image
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("the same programs gave two images")
	}
}

func TestImageHoldsParentsFirst(t *testing.T) {
	seen := map[string]bool{".": true}
	for _, e := range contents(nil, nil) {
		if !seen[filepath.Dir(e.name)] {
			t.Errorf("%s comes before its directory", e.name)
		}
		seen[e.name] = true
	}
}

func TestBadProgram(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ path, want string }{
		"missing": {filepath.Join(t.TempDir(), "agent"), "no such file"},
		"script":  {script, "no program for Linux"},
		"dynamic": {"/bin/sh", "is not static: it needs"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := readProgram(test.path); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %v, want %q in it", err, test.want)
			}
		})
	}
}

// staticProgram writes the smallest file that is a static program: an ELF header that announces nothing.
func staticProgram(t *testing.T) string {
	t.Helper()
	header := make([]byte, 64)
	copy(header, "\x7fELF\x02\x01\x01")
	header[16] = 2  // ET_EXEC
	header[18] = 62 // EM_X86_64
	header[20] = 1  // version
	header[52] = 64 // the header's own size
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, header, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// readArchive reads a newc archive up to its trailer.
func readArchive(t *testing.T, archive []byte) []entry {
	t.Helper()
	var entries []entry
	for at := 0; ; {
		if len(archive) < at+110 || string(archive[at:at+6]) != "070701" {
			t.Fatalf("no entry at byte %d of %d", at, len(archive))
		}
		var field [13]int
		for i := range field {
			number, err := strconv.ParseUint(string(archive[at+6+8*i:at+14+8*i]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			field[i] = int(number)
		}
		size, nameSize := field[6], field[11]
		name := string(archive[at+110 : at+110+nameSize-1])
		at = (at + 110 + nameSize + 3) &^ 3
		data := archive[at : at+size]
		at = (at + size + 3) &^ 3
		if name == trailer {
			return entries
		}
		entries = append(entries, entry{
			name: name, mode: uint32(field[1]), major: uint32(field[9]), minor: uint32(field[10]), data: data,
		})
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }
