package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// TestNoArchiveToTerminal keeps what a container has away from the terminal.
func TestNoArchiveToTerminal(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	var stderr bytes.Buffer
	code := run(t.Context(), []string{"limpet", "cp", "sandbox:/etc", "-"}, terminal, &stderr)
	if code != exitUsage || !strings.Contains(stderr.String(), "nothing for a terminal") {
		t.Errorf("exit status %d, %s", code, &stderr)
	}
}

func TestIntoDirectory(t *testing.T) {
	for _, test := range []struct {
		source, destination string
		isDirectory         bool
		want                string
	}{
		{"/a/b", "c", false, "c"},
		{"/a/b", "c/", false, "c/b"},
		{"/a/b", "c", true, "c/b"},
		{"/a/b/", "c", true, "c/b"},
		{"/a/b/.", "c", true, "c/b"},
		{"/a/b/..", "c", true, "c/a"},
	} {
		if got := (place{path: test.destination}).intoDirectory(test.source, test.isDirectory); got != test.want {
			t.Errorf("%s to %s: got %s, want %s", test.source, test.destination, got, test.want)
		}
	}
}
