package main

import "github.com/urfave/cli/v2"

func inspectCommand() *cli.Command {
	return &cli.Command{
		Name:      "inspect",
		Usage:     "print all that is known of a sandbox, as JSON",
		ArgsUsage: "SANDBOX",
		Description: "Its process and its machine's, its size, its doors, its containers with their bundles, and the trace of its start.\n" +
			referenceUsage,
		Flags:        sandboxFlags(),
		OnUsageError: onUsageError,
		Before:       arguments(1, 1),
		Action: func(c *cli.Context) error {
			found, err := findSandbox(c, c.Args().First())
			if err != nil {
				return err
			}
			return printJSON(c.App.Writer, found.SandboxInfo)
		},
	}
}
