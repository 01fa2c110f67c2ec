package atomicfile

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	expect := func(text string, mode os.FileMode) {
		t.Helper()
		if got, err := os.ReadFile(path); string(got) != text || err != nil {
			t.Errorf("%q, %v; want %q", got, err, text)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("%v, %v; want %v", info, err, mode)
		}
		if entries, err := os.ReadDir(dir); len(entries) != 1 || err != nil {
			t.Errorf("left beside it: %v, %v", entries, err)
		}
	}
	if err := Write(path, []byte("one"), 0o644); err != nil {
		t.Fatal(err)
	}
	expect("one", 0o644)
	old, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if err := WriteJSON(path, []int{2}); err != nil {
		t.Fatal(err)
	}
	expect("[2]", 0o600)
	text := make([]byte, 8)
	if n, err := old.Read(text); string(text[:n]) != "one" || err != nil {
		t.Errorf("who reads the old one gets %q, %v", text[:n], err)
	}
	if err := WriteJSON(path, func() {}); err == nil {
		t.Error("a function was written")
	}
	expect("[2]", 0o600)
}

// TestWriteFails leaves what was there, and nothing else.
func TestWriteFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "directory")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, nil, 0o600); err == nil {
		t.Error("a file took the place of a directory")
	}
	if entries, err := os.ReadDir(dir); len(entries) != 1 || err != nil {
		t.Errorf("there are %v, %v", entries, err)
	}
	if err := Write(filepath.Join(dir, "none", "file"), nil, 0o600); err == nil {
		t.Error("a file was written in no directory")
	}
}
