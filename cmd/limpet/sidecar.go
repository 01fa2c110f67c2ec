package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/runtime"
	"github.com/limpet-run/limpet/runtime/execsidecar"
)

func sidecarCommand() *cli.Command {
	return &cli.Command{
		Name:         "sidecar",
		Usage:        "run commands elsewhere with the caller's own standard streams; reach a containerd by byte streams",
		Subcommands:  []*cli.Command{sidecarStartCommand(), sidecarExecCommand(), sidecarStopCommand(), sidecarServeCommand()},
		OnUsageError: onUsageError,
		Action:       needSubcommand,
	}
}

func sidecarStartCommand() *cli.Command {
	return &cli.Command{
		Name:      "start",
		Usage:     "run commands for who connects to a socket",
		ArgsUsage: "PATH",
		Description: "Commands run here, in this program's environment, until it gets SIGINT or SIGTERM or is told to stop; then they are\n" +
			"killed. Clients may be of the same user or root.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "parents", Aliases: []string{"p"}, Usage: "make the directories above the socket"},
		},
		HideHelpCommand: true, // "help" may be the command, or the socket
		OnUsageError:    onUsageError,
		Action: func(c *cli.Context) error {
			path, err := onePath(c)
			if err != nil {
				return err
			}
			if c.Bool("parents") {
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					return err
				}
			}
			return execsidecar.Listen(c.Context, path, slog.New(slog.NewTextHandler(c.App.ErrWriter, nil)))
		},
	}
}

func sidecarStopCommand() *cli.Command {
	return &cli.Command{
		Name:            "stop",
		Usage:           "end the server at a socket, and the commands that it runs",
		ArgsUsage:       "PATH",
		HideHelpCommand: true, // "help" may be the command, or the socket
		OnUsageError:    onUsageError,
		Action: func(c *cli.Context) error {
			path, err := onePath(c)
			if err != nil {
				return err
			}
			return execsidecar.Stop(c.Context, path)
		},
	}
}

// onePath is the only argument.
func onePath(c *cli.Context) (string, error) {
	if c.NArg() != 1 || c.Args().First() == "" {
		return "", usageError{fmt.Errorf("%s takes one argument, the PATH of a socket; there are %d", c.Command.Name, c.NArg())}
	}
	return c.Args().First(), nil
}

func sidecarExecCommand() *cli.Command {
	return &cli.Command{
		Name:      "exec",
		Usage:     "run a command where a server is",
		ArgsUsage: "COMMAND [ARGUMENT...]",
		Description: "The server is one of `limpet sidecar start`, or the exec.sock of a sandbox. The command has this program's standard\n" +
			"streams, gets its signals, and is killed when it is gone. The exit status is the command's, 128+n for signal n,\n" +
			"126 or 127 if the command cannot be started, 125 if there is no server.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "connect", Aliases: []string{"c"}, Required: true, Usage: "`SOCKET` of the server"},
			&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, KeepSpace: true,
				Usage: "set `NAME=VALUE` in the command's environment; may be given again"},
			&cli.StringFlag{Name: "workdir", Aliases: []string{"w"}, Usage: "change to `DIR` first"},
			&cli.StringFlag{Name: "container", Usage: "`ID` of the container in a sandbox (default: the first one)"},
			&cli.IntFlag{Name: "setuid", Aliases: []string{"uid"}, Value: int(execsidecar.Keep), DefaultText: "the server's",
				Usage: "run as user `UID`"},
			&cli.IntFlag{Name: "setgid", Aliases: []string{"gid"}, Value: int(execsidecar.Keep), DefaultText: "the server's",
				Usage: "run as group `GID`"},
			&cli.IntFlag{Name: "setpgid", DefaultText: "one of its own", Usage: "join the process group `PGID`"},
			&cli.BoolFlag{Name: "setsid", Usage: "lead a new session"},
			&cli.BoolFlag{Name: "notty", Usage: "have no controlling terminal"},
			&cli.StringFlag{Name: "deathsig", Value: "SIGKILL", Usage: "get `SIGNAL` when the server dies; 0 for none"},
		},
		HideHelpCommand: true, // "help" may be the command, or the socket
		OnUsageError:    onUsageError,
		Action: func(c *cli.Context) error {
			command, err := sidecarExec(c)
			if err != nil {
				return usageError{err}
			}
			signals, stop := execsidecar.Signals()
			defer stop()
			// The signals that end other commands of this program are passed on.
			ctx := context.WithoutCancel(c.Context)
			result, err := execsidecar.Run(ctx, c.String("connect"), command, execsidecar.Files{os.Stdin, os.Stdout, os.Stderr}, signals)
			return statusError{err, execsidecar.ExitCode(result, err)}
		},
	}
}

// sidecarExec is the command that the flags and arguments describe.
func sidecarExec(c *cli.Context) (execsidecar.Command, error) {
	if !c.Args().Present() || c.Args().First() == "" {
		return execsidecar.Command{}, errors.New("exec needs a command")
	}
	command := execsidecar.NewCommand(c.Args().First(), c.Args().Tail()...)
	command.Dir = c.String("workdir")
	for _, text := range c.StringSlice("env") {
		variable, err := execsidecar.ParseVariable(text)
		if err != nil {
			return command, err
		}
		command.Env = append(command.Env, variable)
	}
	if id := c.String("container"); id != "" {
		command.Env = append(command.Env, execsidecar.Variable{Name: runtime.ContainerVariable, Value: id})
	}
	for _, number := range []struct {
		flag string
		to   *int32
	}{{"setuid", &command.UID}, {"setgid", &command.GID}, {"setpgid", &command.Group}} {
		value := c.Int(number.flag)
		if int(int32(value)) != value {
			return command, fmt.Errorf("--%s %d: too large", number.flag, value)
		}
		*number.to = int32(value)
	}
	for _, way := range []struct {
		flag string
		set  execsidecar.Startup
	}{{"setpgid", execsidecar.JoinGroup}, {"setsid", execsidecar.NewSession}, {"notty", execsidecar.DetachTerminal}} {
		if c.IsSet(way.flag) {
			command.Startup |= way.set
		}
	}
	var err error
	command.DeathSignal, err = parseSignal(c.String("deathsig"))
	return command, err
}

// parseSignal reads a signal's name, with or without SIG, or its number.
func parseSignal(text string) (int32, error) {
	if number, err := strconv.Atoi(text); err == nil && number >= 0 && number <= 64 {
		return int32(number), nil
	}
	name := "SIG" + strings.TrimPrefix(strings.ToUpper(text), "SIG")
	if signal := unix.SignalNum(name); signal != 0 {
		return int32(signal), nil
	}
	return 0, fmt.Errorf("there is no signal %q", text)
}
