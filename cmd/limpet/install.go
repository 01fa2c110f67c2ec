package main

import (
	"fmt"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/limpet-run/limpet/deploy"
	"github.com/limpet-run/limpet/runtime/install"
)

func installCommand() *cli.Command {
	return &cli.Command{
		Name:  "install",
		Usage: "add limpet to containerd's configuration, so that Kubernetes' pods can be run in it",
		Description: "containerd (2.0 to 2.4) gets a drop-in with the handlers limpet (the one to use) and limpet-shim (pods by the Sandbox\n" +
			"API). Before that `limpet doctor` has to find that a container could run; afterwards containerd has to find the\n" +
			"handlers. In the end the RuntimeClass for the cluster is printed. To run it again does no harm.\n" +
			"With --root an installer that is itself a container works on its host: it copies limpet's files there, too.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "root", Value: "/", Usage: "`DIR` where the host's root is mounted"},
			&cli.StringFlag{Name: "from", Value: "/", Usage: "root `DIR` that limpet's files are copied from if it is not --root"},
			&cli.StringFlag{Name: "containerd-config", Value: "/etc/containerd/config.toml",
				Usage: "containerd's configuration `FILE`, as the host sees it"},
			&cli.StringFlag{Name: "address", Value: "/run/containerd/containerd.sock", Usage: "containerd's `SOCKET`, as the host sees it"},
			&cli.StringFlag{Name: "config",
				Usage: "limpet's configuration `FILE` for pods, as the host sees it (default: /etc/limpet/config.toml if it exists)"},
			&cli.BoolFlag{Name: "dry-run", Usage: "say what would be done, with the text of each file, and do nothing"},
			&cli.BoolFlag{Name: "restart", Usage: "restart containerd if it has to read its configuration again"},
			&cli.BoolFlag{Name: "skip-doctor", Usage: "do not run `limpet doctor`"},
			&cli.BoolFlag{Name: "uninstall", Usage: "take all of it away, templates too; limpet's own configuration stays"},
		},
		OnUsageError: onUsageError,
		Before:       arguments(0, 0),
		Action:       installOrRemove,
	}
}

func installOrRemove(c *cli.Context) error {
	root, err := filepath.Abs(c.String("root"))
	if err != nil {
		return err
	}
	options := install.Options{
		Root: root, From: c.String("from"), ContainerdConfig: c.String("containerd-config"), Address: c.String("address"),
		Config: c.String("config"), DryRun: c.Bool("dry-run"), Restart: c.Bool("restart"), SkipDoctor: c.Bool("skip-doctor"),
	}
	report := func(verb, text string) { fmt.Fprintf(c.App.Writer, "%-7s %s\n", verb, text) }
	if c.Bool("uninstall") {
		return install.Uninstall(c.Context, options, report)
	}
	if err := install.Install(c.Context, options, report); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.App.Writer, "\n%s", deploy.RuntimeClass)
	return err
}
