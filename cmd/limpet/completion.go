package main

import (
	_ "embed"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// The scripts ask limpet itself, with a flag behind the words, what can come next.
var (
	//go:embed completion/limpet.bash
	bashCompletion string
	//go:embed completion/limpet.zsh
	zshCompletion string
	//go:embed completion/limpet.fish
	fishCompletion string
)

func completionCommand() *cli.Command {
	scripts := map[string]string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}
	return &cli.Command{
		Name:      "completion",
		Usage:     "print a script that has a shell complete limpet's commands, flags and sandboxes",
		ArgsUsage: "bash|zsh|fish",
		Description: "`make install` puts them where shells look. For one session of bash: source <(limpet completion bash);\n" +
			"of zsh: source <(limpet completion zsh); of fish: limpet completion fish | source.",
		OnUsageError: onUsageError,
		Before:       arguments(1, 1),
		BashComplete: func(c *cli.Context) { fmt.Fprint(c.App.Writer, "bash\nzsh\nfish\n") },
		Action: func(c *cli.Context) error {
			script, ok := scripts[c.Args().First()]
			if !ok {
				return usageError{fmt.Errorf("there is no completion for %q: want bash, zsh or fish", c.Args().First())}
			}
			_, err := fmt.Fprint(c.App.Writer, script)
			return err
		},
	}
}

// completesFlag tells whether the word to be completed, which stands before the flag that asks, is a flag.
func completesFlag() bool {
	return len(os.Args) > 2 && strings.HasPrefix(os.Args[len(os.Args)-2], "-")
}

// completeSandboxes prints the sandboxes that there are, and the containers of those that have several; or flags, if one is begun.
func completeSandboxes(c *cli.Context) {
	if completesFlag() {
		cli.DefaultCompleteWithFlags(c.Command)(c)
		return
	}
	list, _ := sandboxes(c) // what is wrong is said when the command runs
	for _, sandbox := range list {
		fmt.Fprintln(c.App.Writer, sandbox.ID)
		for _, container := range sandbox.Containers {
			if len(sandbox.Containers) > 1 {
				fmt.Fprintln(c.App.Writer, sandbox.ID+"/"+container.ID)
			}
		}
	}
}

// withSandboxes lets a command's arguments be completed by sandboxes.
func withSandboxes(commands ...*cli.Command) []*cli.Command {
	for _, command := range commands {
		command.BashComplete = completeSandboxes
	}
	return commands
}

// inCategory puts commands under a title in help and manual.
func inCategory(title string, commands ...[]*cli.Command) []*cli.Command {
	list := slices.Concat(commands...)
	for _, command := range list {
		command.Category = title
	}
	return list
}
