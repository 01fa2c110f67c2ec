package main

import (
	"github.com/urfave/cli/v2"

	"github.com/limpet-run/limpet/runtime/config"
)

func configCommand() *cli.Command {
	return &cli.Command{
		Name:         "config",
		Usage:        "print the documented configuration file with every key at its default",
		OnUsageError: onUsageError,
		Before:       arguments(0, 0),
		Action: func(c *cli.Context) error {
			_, err := c.App.Writer.Write(config.DefaultFile)
			return err
		},
	}
}
