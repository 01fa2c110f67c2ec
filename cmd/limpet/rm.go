package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/urfave/cli/v2"

	"github.com/limpet-run/limpet/runtime"
	"github.com/limpet-run/limpet/runtime/config"
	"github.com/limpet-run/limpet/runtime/standalone"
)

// removeTimeout is how long it may take to end a machine and its daemons, which are killed, and to undo what was made for them.
const removeTimeout = 30 * time.Second

func rmCommand() *cli.Command {
	return &cli.Command{
		Name:      "rm",
		Usage:     "remove what `limpet run` has kept, and sandboxes that nobody holds any more",
		ArgsUsage: "SANDBOX...",
		Description: "A run of `limpet run` goes by its name: one that has ended, with what it wrote, or with --force one that goes on.\n" +
			"What an orphaned sandbox left on this host goes: processes, mounts, network, files. A sandbox of containerd's is\n" +
			"removed with containerd's own commands.\n" + referenceUsage,
		Flags: sandboxFlags(
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "kill what goes on; a sandbox of containerd's has then lost its shim"}),
		OnUsageError: onUsageError,
		Before:       arguments(1, -1),
		Action: func(c *cli.Context) error {
			var errs []error
			for _, reference := range c.Args().Slice() {
				errs = append(errs, removeSandbox(c, reference))
			}
			return errors.Join(errs...)
		},
	}
}

func removeSandbox(c *cli.Context, reference string) error {
	if !c.IsSet("namespace") || c.String("namespace") == standalone.Namespace {
		err := removeRun(c, reference)
		if !errdefs.IsNotFound(err) {
			return err
		}
	}
	found, err := findSandbox(c, reference)
	if err != nil {
		return err
	}
	if found.State != runtime.SandboxOrphaned && !c.Bool("force") {
		return fmt.Errorf("sandbox %s is containerd's: remove it with %s, or kill it with --force", found.ID, ownersCommand(found))
	}
	ctx, cancel := context.WithTimeout(c.Context, removeTimeout)
	defer cancel()
	if err := runtime.RemoveSandbox(ctx, found.SandboxInfo, c.Bool("force")); err != nil {
		return err
	}
	_, err = fmt.Fprintln(c.App.Writer, found.ID)
	return err
}

// removeRun removes what `limpet run` has made. ErrNotFound: nothing of that name.
func removeRun(c *cli.Context, name string) error {
	configuration, err := config.Load(c.String("config"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context, removeTimeout)
	defer cancel()
	if err := standalone.Remove(ctx, configuration.StateDir, name, c.Bool("force")); err != nil {
		return err
	}
	_, err = fmt.Fprintln(c.App.Writer, name)
	return err
}

// ownersCommand is how a sandbox's owner removes it.
func ownersCommand(found runtime.Found) string {
	if found.Pod {
		return fmt.Sprintf("`kubectl delete pod` or `crictl rmp --force %s`", found.ID)
	}
	return fmt.Sprintf("`ctr --namespace %s task rm --force %s` or nerdctl", found.Namespace, found.ID)
}
