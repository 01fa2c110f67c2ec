package main

import (
	"fmt"

	"github.com/urfave/cli/v2"
)

func sidecarCommand() *cli.Command {
	return &cli.Command{
		Name:         "sidecar",
		Usage:        "doors to what runs elsewhere: a containerd",
		Subcommands:  []*cli.Command{sidecarServeCommand()},
		OnUsageError: onUsageError,
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usageError{fmt.Errorf("unknown command %q: see limpet sidecar --help", c.Args().First())}
			}
			return cli.ShowSubcommandHelp(c)
		},
	}
}
