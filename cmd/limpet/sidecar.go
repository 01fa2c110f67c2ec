package main

import "github.com/urfave/cli/v2"

func sidecarCommand() *cli.Command {
	return &cli.Command{
		Name:         "sidecar",
		Usage:        "doors to what runs elsewhere: a containerd",
		Subcommands:  []*cli.Command{sidecarServeCommand()},
		OnUsageError: onUsageError,
		Action:       needSubcommand,
	}
}
