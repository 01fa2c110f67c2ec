package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/limpet-run/limpet/internal/printable"
	"github.com/limpet-run/limpet/runtime"
)

func psCommand() *cli.Command {
	return &cli.Command{
		Name:  "ps",
		Usage: "list the sandboxes and their containers",
		Description: "A sandbox is creating, running, stopped (its machine has ended) or orphaned (the process that held it was killed:\n" +
			"`limpet rm` removes what is left). A container is creating, created, running, paused or stopped, with its exit code.\n" +
			"PID is the process on the host that holds a sandbox, and the one that stands for a container.",
		Flags: sandboxFlags(jsonFlag(), &cli.BoolFlag{Name: "no-trunc", Usage: "print the long ids of pods and their containers as they are"}),

		OnUsageError: onUsageError,
		Before:       arguments(0, 0),
		Action: func(c *cli.Context) error {
			list, err := sandboxes(c)
			if list == nil {
				return err
			}
			if c.Bool("json") {
				return errors.Join(printJSON(c.App.Writer, list), err)
			}
			return errors.Join(printSandboxes(c.App.Writer, list, time.Now(), c.Bool("no-trunc")), err)
		},
	}
}

// printSandboxes writes a line for each sandbox, and one for each container below it.
func printSandboxes(w io.Writer, list []runtime.SandboxInfo, now time.Time, whole bool) error {
	short := shortID
	if whole {
		short = func(id string) string { return id }
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAMESPACE\tSANDBOX\tCONTAINER\tSTATE\tPID\tVCPUS\tMEMORY\tAGE\tNAME\tIMAGE")
	for _, sandbox := range list {
		fmt.Fprintf(table, "%s\t%s\t-\t%s\t%d\t%d\t%s\t%s\t%s\t-\n", sandbox.Namespace, short(sandbox.ID), sandbox.State, sandbox.Holder.PID,
			sandbox.VCPUs, printBytes(uint64(sandbox.MemoryMiB)<<20), printAge(sandbox.Began, now), printable.Line(cmp.Or(sandbox.Name, "-")))
		for _, container := range sandbox.Containers {
			pid := "-"
			if container.PID != 0 {
				pid = fmt.Sprint(container.PID)
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t-\t-\t%s\t%s\t%s\n", sandbox.Namespace, short(sandbox.ID), short(container.ID),
				containerState(container), pid, printAge(container.Created, now), printable.Line(cmp.Or(container.Name, "-")),
				printable.Line(cmp.Or(container.Image, "-")))
		}
	}
	return table.Flush()
}

func containerState(container runtime.ContainerInfo) string {
	switch {
	case container.State == "":
		return "creating"
	case container.Exit != nil:
		return fmt.Sprintf("%s (%d)", container.State, container.Exit.Code)
	}
	return string(container.State)
}

// shortID cuts the ids that nobody types: those that CRI makes.
func shortID(id string) string {
	const criID, enough = 64, 13
	if len(id) != criID {
		return id
	}
	return id[:enough]
}
