package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/limpet-run/limpet/runtime"
	"github.com/limpet-run/limpet/runtime/config"
)

func traceCommand() *cli.Command {
	return &cli.Command{
		Name:      "trace",
		Usage:     "show how long a sandbox took to start, stage by stage",
		ArgsUsage: "[SANDBOX]",
		Description: "A sandbox has the id of its first container. Without one, all sandboxes are listed.\n" +
			"The parts of a start are the sandbox, the creation and the start of its first container, and its first exec.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Usage: "configuration `FILE` (default: /etc/limpet/config.toml if it exists)"},
			&cli.StringFlag{Name: "namespace", Usage: "containerd's `NAMESPACE` of the sandbox (default: any)"},
			&cli.BoolFlag{Name: "json", Usage: "print JSON for programs"},
		},
		OnUsageError: onUsageError,
		Before: func(c *cli.Context) error {
			if c.NArg() > 1 {
				return usageError{fmt.Errorf("trace takes one sandbox, but there is also %q: flags come first", c.Args().Get(1))}
			}
			return nil
		},
		Action: showTrace,
	}
}

func showTrace(c *cli.Context) error {
	configuration, err := config.Load(c.String("config"))
	if err != nil {
		return err
	}
	traces, err := runtime.Traces(configuration.StateDir)
	traces = slices.DeleteFunc(traces, func(trace runtime.Trace) bool {
		return c.IsSet("namespace") && trace.Namespace != c.String("namespace")
	})
	if c.NArg() == 0 {
		return errors.Join(printTraces(c.App.Writer, traces, c.Bool("json")), err)
	}
	trace, findErr := findTrace(traces, c.Args().First(), configuration.StateDir)
	if findErr != nil {
		return errors.Join(findErr, err)
	}
	return printTrace(c.App.Writer, trace, c.Bool("json"))
}

// findTrace returns the only trace with that id.
func findTrace(traces []runtime.Trace, id, stateDir string) (runtime.Trace, error) {
	var found []runtime.Trace
	var namespaces []string
	for _, trace := range traces {
		if trace.ID == id {
			found = append(found, trace)
			namespaces = append(namespaces, trace.Namespace)
		}
	}
	switch len(found) {
	case 0:
		return runtime.Trace{}, fmt.Errorf("sandbox %s: none in %s (`limpet trace` lists those there are; --config names the configuration "+
			"of another state directory)", id, stateDir)
	case 1:
		return found[0], nil
	}
	return runtime.Trace{}, fmt.Errorf("sandbox %s: there is one in each of the namespaces %s: choose with --namespace", id,
		strings.Join(namespaces, ", "))
}

func printJSON(w io.Writer, value any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

// printTraces lists sandboxes, with the milliseconds of the parts of their starts.
func printTraces(w io.Writer, traces []runtime.Trace, asJSON bool) error {
	if asJSON {
		return printJSON(w, append([]runtime.Trace{}, traces...)) // an empty list is one, too
	}
	parts := []string{runtime.PartSandbox, runtime.PartCreate, runtime.PartStart, runtime.PartExec}
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
	fmt.Fprintf(w, "sandbox %s of namespace %s, begun %s\n\n", trace.ID, trace.Namespace, began)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "FROM MS\tTOOK MS\t  STAGE")
	for _, part := range trace.Parts {
		fmt.Fprintf(table, "%.1f\t%.1f\t  %s\n", part.BeginMS, part.MS, part.Name)
		for _, stage := range part.Stages {
			fmt.Fprintf(table, "%.1f\t%.1f\t    %s\n", stage.BeginMS, stage.MS, stage.Name)
		}
	}
	return table.Flush()
}
