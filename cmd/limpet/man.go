package main

import (
	_ "embed"
	"fmt"
	"strings"

	"github.com/cpuguy83/go-md2man/v2/md2man"
	"github.com/urfave/cli/v2"
)

// manualEnd is what the manual says behind the commands.
//
//go:embed manual/end.md
var manualEnd string

func manCommand() *cli.Command {
	return &cli.Command{
		Name:         "man",
		Usage:        "print limpet's manual page, limpet(1)",
		Description:  "`make install` puts it where man looks. To read it from here: limpet man | man -l -",
		OnUsageError: onUsageError,
		Before:       arguments(0, 0),
		Action: func(c *cli.Context) error {
			_, err := c.App.Writer.Write(md2man.Render([]byte(manual(c.App))))
			return err
		},
	}
}

// manual is the manual page as Markdown: what --help says of the program and of each command.
func manual(app *cli.App) string {
	var text strings.Builder
	fmt.Fprintf(&text, "%% %s 1\n\n# NAME\n\n%s - %s\n\n", app.Name, app.Name, app.Usage)
	fmt.Fprintf(&text, "# SYNOPSIS\n\n**%s** *command* [*options*] [*arguments*]\n\n# COMMANDS\n\n", app.Name)
	for _, command := range app.VisibleCommands() {
		if command.Name != "help" {
			writeCommand(&text, app.Name, command)
		}
	}
	fmt.Fprintf(&text, "# NAMES OF SANDBOXES\n\n%s\n\n%s", escapeMarkdown(referenceUsage), manualEnd)
	return text.String()
}

// writeCommand describes a command, if it does something itself, and each of its own commands.
func writeCommand(text *strings.Builder, parent string, command *cli.Command) {
	name := parent + " " + command.Name
	if command.Action != nil {
		describeCommand(text, name, command)
	}
	for _, sub := range command.Subcommands {
		if !sub.Hidden && sub.Name != "help" {
			writeCommand(text, name, sub)
		}
	}
}

// describeCommand is what --help says of a command.
func describeCommand(text *strings.Builder, name string, command *cli.Command) {
	synopsis := name
	if len(command.VisibleFlags()) > 0 {
		synopsis += " [options]"
	}
	if command.ArgsUsage != "" {
		synopsis += " " + command.ArgsUsage
	}
	fmt.Fprintf(text, "## %s\n\n%s.\n\n", escapeMarkdown(synopsis), escapeMarkdown(command.Usage))
	if description := strings.TrimSuffix(command.Description, referenceUsage); description != "" {
		fmt.Fprintf(text, "%s\n\n", escapeMarkdown(strings.TrimSpace(description)))
	}
	for _, flag := range command.VisibleFlags() {
		names, usage, _ := strings.Cut(flag.String(), "\t")
		if strings.Contains(names, "--help") {
			continue
		}
		fmt.Fprintf(text, "**%s**\n: %s\n\n", escapeMarkdown(strings.TrimSpace(names)), escapeMarkdown(usage))
	}
}

// escapeMarkdown has text mean itself, but for what is quoted as code.
func escapeMarkdown(text string) string {
	return strings.NewReplacer("*", `\*`, "_", `\_`, "<", `\<`, "[", `\[`, "]", `\]`, "|", `\|`).Replace(text)
}
