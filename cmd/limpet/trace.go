package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/limpet-run/limpet/runtime"
)

func traceCommand() *cli.Command {
	return &cli.Command{
		Name:      "trace",
		Usage:     "show how long a sandbox took to start, stage by stage",
		ArgsUsage: "[SANDBOX]",
		Description: "Without a sandbox, all are listed. The parts are the start of the shim, of the sandbox, the creation and the start of its\n" +
			"first container, its first output, its first exec, and the end. Of a sandbox that is gone, they are in the log: --log\n" +
			"reads them there, where a sandbox has its whole identifier.\n" + referenceUsage,
		Flags: sandboxFlags(jsonFlag(), &cli.StringFlag{
			Name: "log", Usage: "read the traces of sandboxes that are gone from `FILE`, containerd's log (- is standard input)", TakesFile: true,
		}),
		OnUsageError: onUsageError,
		Before:       arguments(0, 1),
		Action:       showTrace,
	}
}

func showTrace(c *cli.Context) error {
	if c.IsSet("log") {
		return showLogged(c)
	}
	if c.NArg() > 0 {
		found, err := findSandbox(c, c.Args().First())
		if err != nil {
			return err
		}
		return printTrace(c.App.Writer, found.Trace(), c.Bool("json"))
	}
	list, err := sandboxes(c)
	if list == nil {
		return err
	}
	traces := []runtime.Trace{}
	for _, sandbox := range list {
		traces = append(traces, sandbox.Trace())
	}
	return errors.Join(printTraces(c.App.Writer, traces, c.Bool("json")), err)
}

// showLogged shows what a log has: of a sandbox the last.
func showLogged(c *cli.Context) error {
	var log io.Reader = c.App.Reader
	if name := c.String("log"); name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return err
		}
		defer file.Close()
		log = file
	}
	traces, err := runtime.LoggedTraces(log)
	if err != nil {
		return err
	}
	traces = slices.DeleteFunc(traces, func(trace runtime.Trace) bool {
		return c.IsSet("namespace") && trace.Namespace != c.String("namespace") || c.NArg() > 0 && trace.ID != c.Args().First()
	})
	switch {
	case c.NArg() == 0:
		return printTraces(c.App.Writer, traces, c.Bool("json"))
	case len(traces) == 0:
		return fmt.Errorf("the log %s has no trace of a sandbox %s", c.String("log"), c.Args().First())
	}
	return printTrace(c.App.Writer, traces[len(traces)-1], c.Bool("json"))
}

// printTraces lists sandboxes, with the milliseconds of the parts of their starts.
func printTraces(w io.Writer, traces []runtime.Trace, asJSON bool) error {
	if asJSON {
		return printJSON(w, traces)
	}
	parts := []string{runtime.PartShim, runtime.PartSandbox, runtime.PartCreate, runtime.PartStart, runtime.PartExec}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "NAMESPACE\tSANDBOX\tBEGAN\t%s MS\n", strings.ToUpper(strings.Join(parts, " MS\t")))
	for _, trace := range traces {
		fmt.Fprintf(table, "%s\t%s\t%s", trace.Namespace, trace.ID, trace.Began.Local().Format(time.DateTime))
		for _, name := range parts {
			took := "-"
			for _, part := range trace.Parts {
				if part.Name == name {
					took = fmt.Sprintf("%.1f", part.MS)
				}
			}
			fmt.Fprintf(table, "\t%s", took)
		}
		fmt.Fprintln(table)
	}
	return table.Flush()
}

// printTrace writes one line for each part and stage of a start.
func printTrace(w io.Writer, trace runtime.Trace, asJSON bool) error {
	if asJSON {
		return printJSON(w, trace)
	}
	began := trace.Began.Local().Format("2006-01-02 15:04:05.000")
	origin := "booted"
	if trace.Template != "" {
		origin = "a clone of template " + trace.Template
	}
	fmt.Fprintf(w, "sandbox %s of namespace %s, %s, begun %s\n\n", trace.ID, trace.Namespace, origin, began)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "FROM MS\tTOOK MS\t  STAGE")
	elsewhere := trace.Elsewhere()
	for _, part := range trace.Parts {
		for len(elsewhere) > 0 && elsewhere[0].BeginMS < part.BeginMS {
			fmt.Fprintf(table, "%.1f\t%.1f\t  (elsewhere)\n", elsewhere[0].BeginMS, elsewhere[0].MS)
			elsewhere = elsewhere[1:]
		}
		fmt.Fprintf(table, "%.1f\t%.1f\t  %s\n", part.BeginMS, part.MS, part.Name)
		for _, stage := range part.Stages {
			fmt.Fprintf(table, "%.1f\t%.1f\t    %s\n", stage.BeginMS, stage.MS, stage.Name)
		}
		if other := part.Other(); other > 0 {
			fmt.Fprintf(table, "\t%.1f\t    (other)\n", other)
		}
	}
	return table.Flush()
}
