package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/limpet-run/limpet/runtime"
)

// removeTimeout is how long it may take to end a machine and its daemons, which are killed, and to undo what was made for them.
const removeTimeout = 30 * time.Second

func rmCommand() *cli.Command {
	return &cli.Command{
		Name:      "rm",
		Usage:     "remove sandboxes that nobody holds any more",
		ArgsUsage: "SANDBOX...",
		Description: "What an orphaned sandbox left on this host goes: processes, mounts, network, files. A sandbox of containerd's is removed\n" +
			"with containerd's own commands.\n" + referenceUsage,
		Flags: sandboxFlags(
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "kill a sandbox that containerd holds; its shim has crashed then"}),
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

// ownersCommand is how a sandbox's owner removes it.
func ownersCommand(found runtime.Found) string {
	if found.Pod {
		return fmt.Sprintf("`kubectl delete pod` or `crictl rmp --force %s`", found.ID)
	}
	return fmt.Sprintf("`ctr --namespace %s task rm --force %s` or nerdctl", found.Namespace, found.ID)
}
