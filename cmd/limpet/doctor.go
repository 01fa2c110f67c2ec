package main

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/limpet-run/limpet/runtime/doctor"
)

func doctorCommand() *cli.Command {
	return &cli.Command{
		Name:  "doctor",
		Usage: "say line by line what works on this host, and what to do about what does not",
		Description: "Every part that a container needs is looked at, and in the end a machine is booted to be sure.\n" +
			"The exit status is 1 if a container could not run.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Usage: "configuration `FILE` (default: /etc/limpet/config.toml if it exists)"},
			&cli.BoolFlag{Name: "json", Usage: "print JSON for programs"},
		},
		OnUsageError: onUsageError,
		Before:       arguments(0, 0),
		Action:       examine,
	}
}

func examine(c *cli.Context) error {
	report := func(doctor.Finding) {}
	if !c.Bool("json") {
		report = func(finding doctor.Finding) { printFinding(c.App.Writer, finding) }
	}
	findings := doctor.Examine(c.Context, c.String("config"), report)
	if c.Bool("json") {
		if err := printJSON(c.App.Writer, map[string]any{"healthy": doctor.Healthy(findings), "findings": findings}); err != nil {
			return err
		}
	}
	if !doctor.Healthy(findings) {
		return errFailed
	}
	return nil
}

// printFinding writes one line, and a second one if there is something to do about it.
func printFinding(w io.Writer, finding doctor.Finding) {
	verdict := "ok"
	if !finding.OK {
		verdict = "FAILED"
	}
	fmt.Fprintf(w, "%-7s %-14s %s\n", verdict, finding.Name, finding.Detail)
	if finding.Remedy != "" {
		fmt.Fprintf(w, "%23s%s\n", "", finding.Remedy)
	}
}
