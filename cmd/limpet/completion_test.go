package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestCompletion(t *testing.T) {
	limpet(t, "completion", "bash").expect(t, outcome{0, []string{"complete ", "limpet"}, nil})
	limpet(t, "completion", "zsh").expect(t, outcome{0, []string{"#compdef limpet"}, nil})
	limpet(t, "completion", "fish").expect(t, outcome{0, []string{"complete --command limpet"}, nil})
	limpet(t, "completion", "csh").expect(t, outcome{exitUsage, nil, []string{`"csh"`, "bash, zsh or fish"}})
	limpet(t, "completion").expect(t, outcome{exitUsage, nil, []string{"bash|zsh|fish"}})
}

// TestBashCompletion completes command lines with bash, which asks the program.
func TestBashCompletion(t *testing.T) {
	dir := t.TempDir()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(program, filepath.Join(dir, "limpet")); err != nil {
		t.Fatal(err)
	}
	config := stateOf(t, web, strings.Replace(otherWeb, `"web"`, `"worm", "containers": {"worm": {}, "wasp": {}}`, 1))
	templates, _ := templatesOf(t, oneTemplate, otherTemplate)
	for _, test := range []struct {
		words []string // the last is the one to complete
		want  []string // sorted
	}{
		{[]string{"ins"}, []string{"inspect", "install"}},
		{[]string{"inspect", "--n"}, []string{"--namespace"}},
		{[]string{"trace", "--"}, []string{"--config", "--help", "--json", "--log", "--namespace"}},
		{[]string{"inspect", "--config", config, "w"}, []string{"web", "worm", "worm/wasp", "worm/worm"}},
		{[]string{"inspect", "--config", config, "--namespace", "default", ""}, []string{"web"}},
		{[]string{"inspect", "--config", config, "--", "w"}, nil},
		{[]string{"template", "b"}, []string{"build"}},
		{[]string{"template", "rm", "--"}, []string{"--all", "--config", "--help", "--stale"}},
		{[]string{"template", "inspect", "--config", templates, ""}, []string{oneTemplate, otherTemplate}},
		{[]string{"completion", ""}, []string{"bash", "fish", "zsh"}},
	} {
		words := "limpet"
		for _, word := range test.words {
			words += " '" + word + "'"
		}
		shell := exec.Command("bash", "-c", bashCompletion+`
			COMP_WORDS=(`+words+`) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
			_limpet
			echo "${COMPREPLY[*]}"`)
		shell.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), programVariable+"=1")
		text, err := shell.Output()
		got := strings.Fields(string(text))
		slices.Sort(got)
		if err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%q: %q, %v; want %q", test.words, got, err, test.want)
		}
	}
}
