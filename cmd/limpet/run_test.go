package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestEnvironment(t *testing.T) {
	file := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(file, []byte("# comment\n\nA=1\r\n  B=a b \nHERE\nNOWHERE\nC="), 0o600); err != nil {
		t.Fatal(err)
	}
	lookup := func(name string) (string, bool) { return "found", name == "HERE" }
	got, err := environment([]string{file}, []string{"A=2", "HERE", "D=x=y"}, lookup)
	want := []string{"A=1", "B=a b ", "HERE=found", "C=", "A=2", "HERE=found", "D=x=y"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v", got, err)
	}
	for _, flag := range []string{"=1", ""} {
		if _, err := environment(nil, []string{flag}, lookup); err == nil {
			t.Errorf("%q: no error", flag)
		}
	}
	if _, err := environment([]string{"/nowhere"}, nil, lookup); err == nil {
		t.Error("no error for a file that is not there")
	}
}

func TestSourceAndCommand(t *testing.T) {
	for _, test := range []struct {
		args, command []string
	}{
		{[]string{"/r", "--", "ls", "-l"}, []string{"ls", "-l"}},
		{[]string{"/r", "ls", "--", "-l"}, []string{"ls", "--", "-l"}},
		{[]string{"/r", "--", "--"}, []string{"--"}},
		{[]string{"/r"}, nil},
	} {
		source, command, err := sourceAndCommand(test.args)
		if err != nil || source != "/r" || !slices.Equal(command, test.command) {
			t.Errorf("%q: got %q, %q, %v", test.args, source, command, err)
		}
	}
	if _, _, err := sourceAndCommand(nil); err == nil {
		t.Error("no error without a source")
	}
}
