package main

import (
	"github.com/urfave/cli/v2"

	"github.com/limpet-run/limpet/runtime/config"
)

var configCommand = &cli.Command{
	Name:  "config",
	Usage: "print the documented configuration file with every key at its default",
	Action: func(c *cli.Context) error {
		_, err := c.App.Writer.Write(config.DefaultFile)
		return err
	},
}
