package main

import (
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// TestManual finds every command with its flags in the manual.
func TestManual(t *testing.T) {
	page := limpet(t, "man")
	page.expect(t, outcome{0, []string{".TH limpet 1", "EXIT STATUS", "limpet ps [options]"}, nil})
	text := manual(&cli.App{Name: "limpet", Commands: commands()})
	var check func(parent string, list []*cli.Command)
	check = func(parent string, list []*cli.Command) {
		for _, command := range list {
			name := parent + " " + command.Name
			if command.Hidden {
				continue
			}
			if command.Usage == "" || !strings.Contains(text, name) {
				t.Errorf("%s is not described", name)
			}
			for _, flag := range command.VisibleFlags() {
				if !strings.Contains(text, "--"+flag.Names()[0]) {
					t.Errorf("flag %s of %s is not described", flag.Names()[0], name)
				}
			}
			check(name, command.Subcommands)
		}
	}
	check("limpet", commands())
	if n := strings.Count(text, strings.SplitN(escapeMarkdown(referenceUsage), "\n", 2)[0]); n != 1 {
		t.Errorf("it says %d times how sandboxes are named", n)
	}
}

func TestEscapeMarkdown(t *testing.T) {
	if got, want := escapeMarkdown("`x` [A_B]|<*>"), "`x` \\[A\\_B\\]\\|\\<\\*>"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
