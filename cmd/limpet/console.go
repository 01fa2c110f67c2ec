package main

import (
	"github.com/urfave/cli/v2"

	"github.com/limpet-run/limpet/runtime"
)

func consoleCommand() *cli.Command {
	return &cli.Command{
		Name:      "console",
		Usage:     "print the console of a sandbox's guest: the last that it said, then what it says",
		ArgsUsage: "SANDBOX",
		Description: "It is where the guest's kernel panics. It ends with Ctrl-C, or with the sandbox. Control characters are left out.\n" +
			referenceUsage,
		Flags:        sandboxFlags(),
		OnUsageError: onUsageError,
		Before:       arguments(1, 1),
		Action: func(c *cli.Context) error {
			found, err := findSandbox(c, c.Args().First())
			if err != nil {
				return err
			}
			conn, err := openDoor(c.Context, found, runtime.ConsoleDoor)
			if err != nil {
				return err
			}
			defer conn.Close()
			return copyUntil(c.Context, c.App.Writer, conn)
		},
	}
}
