package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/limpet-run/limpet/runtime"
	"github.com/limpet-run/limpet/runtime/config"
	"github.com/limpet-run/limpet/runtime/pool"
)

// shimProgram is the program of the shim, and spareVerb its verb for a spare.
const (
	shimProgram = "containerd-shim-limpet-v2"
	spareVerb   = "spare"
)

func poolCommand() *cli.Command {
	configFlag := &cli.StringFlag{
		Name: "config", Usage: "configuration `FILE` (default: /etc/limpet/config.toml if it exists)", TakesFile: true,
	}
	return &cli.Command{
		Name:  "pool",
		Usage: "keep machines that wait, so that sandboxes start in a fraction of the time",
		Description: "A service that runs until it is told to end (SIGTERM, Ctrl-C), for which deploy/limpet-pool.service is a unit of systemd's.\n" +
			"It keeps shim servers, each with a machine that has started; containerd's next sandbox of this configuration gets one of\n" +
			"them, and another is made. It has to run as containerd does: as root, in the same namespaces. Without it all works.",
		Flags: []cli.Flag{configFlag, &cli.IntFlag{Name: "size", Usage: "keep `N` machines (default: pool.size of the configuration)"}},

		OnUsageError: onUsageError,
		Action:       keepPool,
		Subcommands: []*cli.Command{{
			Name:         "status",
			Usage:        "say what waits, and what it costs",
			Flags:        []cli.Flag{configFlag, jsonFlag()},
			OnUsageError: onUsageError,
			Before:       arguments(0, 0),
			Action:       poolStatus,
		}},
	}
}

func keepPool(c *cli.Context) error {
	if err := arguments(0, 0)(c); err != nil { // not before: a subcommand is no argument
		return err
	}
	configuration, err := config.Load(c.String("config"))
	if err != nil {
		return err
	}
	size := configuration.Pool.Size
	if c.IsSet("size") {
		size = c.Int("size")
	}
	program, err := findShim()
	if err != nil {
		return err
	}
	if path := c.String("config"); path != "" {
		if path, err = filepath.Abs(path); err != nil {
			return err
		}
		if err := os.Setenv(config.PathVariable, path); err != nil { // for the spares
			return err
		}
	}
	logger := slog.New(slog.NewTextHandler(c.App.ErrWriter, nil))
	return pool.Keep(c.Context, pool.Options{
		StateDir: configuration.StateDir, Size: size, Program: program, Arguments: []string{spareVerb}, Logger: logger,
	})
}

// findShim returns the path of the shim's program: the one beside this one, or else that in PATH.
func findShim() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	beside := filepath.Join(filepath.Dir(self), shimProgram)
	if _, err := os.Stat(beside); err == nil {
		return beside, nil
	}
	path, err := exec.LookPath(shimProgram)
	if err != nil {
		return "", fmt.Errorf("the shim is not found: %w: run `make install`", err)
	}
	return path, nil
}

func poolStatus(c *cli.Context) error {
	configuration, err := config.Load(c.String("config"))
	if err != nil {
		return err
	}
	spares, err := runtime.Spares(configuration.StateDir)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, spares)
	}
	return printSpares(c.App.Writer, spares, time.Now())
}

// printSpares writes a line for each.
func printSpares(w io.Writer, spares []runtime.SpareInfo, now time.Time) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "PID\tSTATE\tAGE\tMEMORY")
	for _, spare := range spares {
		state := "making"
		if spare.Parked {
			state = "ready"
		}
		fmt.Fprintf(table, "%d\t%s\t%s\t%s\n", spare.Holder.PID, state, printAge(spare.Began, now), printBytes(spare.Memory))
	}
	return table.Flush()
}
