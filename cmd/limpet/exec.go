package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/limpet-run/limpet/runtime"
	"github.com/limpet-run/limpet/runtime/execsidecar"
	"github.com/limpet-run/limpet/runtime/exitcode"
)

func execCommand() *cli.Command {
	return &cli.Command{
		Name:      "exec",
		Usage:     "run a command in a container",
		ArgsUsage: "SANDBOX[/CONTAINER] [--] COMMAND [ARGUMENT...]",
		Description: "It has the environment, directory, user and rights of the container's first process, unless flags say otherwise. It\n" +
			"gets the signals that this program gets, and is killed when this program is gone.\n" +
			"The exit status is the command's, 128+n for signal n, 126 if it cannot be executed, 127 if there is no such program,\n" +
			"125 if limpet itself failed.\n" + referenceUsage,
		Flags: sandboxFlags(
			&cli.BoolFlag{Name: "interactive", Aliases: []string{"i"}, Usage: "let the command read this program's standard input"},
			&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "give the command a terminal, which is this program's"},
			&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, KeepSpace: true,
				Usage: "set `NAME=VALUE` in its environment; may be given again"},
			&cli.StringFlag{Name: "workdir", Aliases: []string{"w"}, Usage: "working `DIR` in the container"},
			&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "run it as `UID[:GID]`, numbers"}),
		UseShortOptionHandling: true,
		OnUsageError:           onUsageError,
		Before:                 arguments(2, -1),
		Action:                 execInContainer,
	}
}

func execInContainer(c *cli.Context) error {
	words := c.Args().Tail()
	if words[0] == "--" {
		words = words[1:]
	}
	if len(words) == 0 {
		return usageError{errors.New("exec lacks a command")}
	}
	command, err := newCommand(words, c.StringSlice("env"), c.String("workdir"), c.String("user"))
	if err != nil {
		return usageError{err}
	}
	found, err := findContainer(c, c.Args().First())
	if err != nil {
		return statusError{err, exitcode.Failure}
	}
	files := execsidecar.Files{nil, os.Stdout, os.Stderr}
	switch {
	case c.Bool("tty"):
		if !isTerminal(os.Stdin) || !isTerminal(os.Stdout) {
			return statusError{errors.New("--tty: standard input and output are no terminal: leave it out"), exitcode.Failure}
		}
		files[0] = os.Stdin
	case c.Bool("interactive"):
		if files[0], err = plainInput(os.Stdin); err != nil {
			return statusError{err, exitcode.Failure}
		}
	}
	signals, stop := execsidecar.Signals()
	defer stop()
	// The signals that end other commands of this program are passed on.
	result, err := runCommandIn(context.WithoutCancel(c.Context), found, command, files, signals)
	if err == nil {
		return statusError{code: result.ExitCode()}
	}
	return statusError{err, execsidecar.ExitCode(result, err)}
}

// newCommand describes a command.
func newCommand(words, env []string, workdir, user string) (execsidecar.Command, error) {
	command := execsidecar.NewCommand(words[0], words[1:]...)
	command.Dir = workdir
	for _, text := range env {
		variable, err := execsidecar.ParseVariable(text)
		if err != nil {
			return command, err
		}
		command.Env = append(command.Env, variable)
	}
	if user == "" {
		return command, nil
	}
	uid, gid, both := strings.Cut(user, ":")
	number, err := strconv.ParseUint(uid, 10, 31)
	command.UID = int32(number)
	if both && err == nil {
		number, err = strconv.ParseUint(gid, 10, 31)
		command.GID = int32(number)
	}
	if err != nil {
		return command, fmt.Errorf("--user %q: want UID or UID:GID, numbers", user)
	}
	return command, nil
}

// plainInput is an input of which the command does not notice that it is a terminal.
func plainInput(input *os.File) (*os.File, error) {
	if !isTerminal(input) {
		return input, nil
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	go func() {
		defer writer.Close()
		_, _ = io.Copy(writer, input) // until its end, or this program's
	}()
	return reader, nil
}

// runCommandIn runs a command in the container that was found.
func runCommandIn(ctx context.Context, found runtime.Found, command execsidecar.Command, files execsidecar.Files, signals <-chan os.Signal,
) (execsidecar.Result, error) {
	path, err := doorPath(found, runtime.CommandDoor)
	if err != nil {
		return execsidecar.Result{}, err
	}
	command.Env = append(command.Env, execsidecar.Variable{Name: runtime.ContainerVariable, Value: found.Container.ID})
	result, err := execsidecar.Run(ctx, path, command, files, signals)
	if err != nil {
		return result, fmt.Errorf("exec in container %s/%s: %w", found.ID, found.Container.ID, err)
	}
	return result, nil
}
