package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/runtime/config"
	"github.com/limpet-run/limpet/runtime/standalone"
)

// stopGrace is how long a command may take to end by itself.
const stopGrace = 10 * time.Second

// runFlags are those of a command that is about the runs of `limpet run`, and more.
func runFlags(more ...cli.Flag) []cli.Flag {
	return append([]cli.Flag{
		&cli.StringFlag{Name: "config", Usage: "configuration `FILE` (default: /etc/limpet/config.toml if it exists)", TakesFile: true},
	}, more...)
}

func stopCommand() *cli.Command {
	return &cli.Command{
		Name:      "stop",
		Usage:     "end what `limpet run` has started",
		ArgsUsage: "NAME...",
		Flags: runFlags(
			&cli.DurationFlag{Name: "time", Aliases: []string{"t"}, Value: stopGrace, Usage: "`TIME` from SIGTERM to SIGKILL"}),
		OnUsageError: onUsageError,
		Before:       arguments(1, -1),
		Action: func(c *cli.Context) error {
			return eachRun(c, func(ctx context.Context, stateDir, name string) error {
				return standalone.Stop(ctx, stateDir, name, c.Duration("time"))
			})
		},
	}
}

func killCommand() *cli.Command {
	return &cli.Command{
		Name:      "kill",
		Usage:     "send a signal to what `limpet run` has started",
		ArgsUsage: "NAME...",
		Flags: runFlags(
			&cli.StringFlag{Name: "signal", Aliases: []string{"s"}, Value: "KILL", Usage: "`SIGNAL`, a name or a number"}),
		OnUsageError: onUsageError,
		Before:       arguments(1, -1),
		Action: func(c *cli.Context) error {
			signal, err := parseSignal(c.String("signal"))
			if err != nil {
				return usageError{err}
			}
			return eachRun(c, func(ctx context.Context, stateDir, name string) error {
				return standalone.Kill(ctx, stateDir, name, unix.Signal(signal))
			})
		},
	}
}

// eachRun does something with every run that is named, and prints the names of those with which it went well.
func eachRun(c *cli.Context, do func(ctx context.Context, stateDir, name string) error) error {
	configuration, err := config.Load(c.String("config"))
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range c.Args().Slice() {
		err := do(c.Context, configuration.StateDir, name)
		if err == nil {
			_, err = fmt.Fprintln(c.App.Writer, name)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
