package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/urfave/cli/v2"

	"github.com/limpet-run/limpet/runtime"
	"github.com/limpet-run/limpet/runtime/config"
	"github.com/limpet-run/limpet/runtime/standalone"
)

// referenceUsage says, for a command's description, how a sandbox is named.
const referenceUsage = "A sandbox has the id of its first container, or of its pod. SANDBOX is that id, or the beginning of one that no\n" +
	"other has, or the id of a container; SANDBOX/CONTAINER chooses among its containers, by id or by the name in a pod."

// sandboxFlags are those of a command that looks for sandboxes, and more.
func sandboxFlags(more ...cli.Flag) []cli.Flag {
	return append([]cli.Flag{
		&cli.StringFlag{Name: "config", Usage: "configuration `FILE` (default: /etc/limpet/config.toml if it exists)", TakesFile: true},
		&cli.StringFlag{Name: "namespace", Usage: "containerd's `NAMESPACE` of the sandbox (default: any)"},
	}, more...)
}

func jsonFlag() cli.Flag { return &cli.BoolFlag{Name: "json", Usage: "print JSON for programs"} }

// arguments refuses a number of arguments that is not from least to most; most < 0: as many as there are.
func arguments(least, most int) cli.BeforeFunc {
	return func(c *cli.Context) error {
		switch {
		case c.NArg() < least:
			return usageError{fmt.Errorf("%s lacks an argument: %s %s", c.Command.Name, c.Command.HelpName, c.Command.ArgsUsage)}
		case most >= 0 && c.NArg() > most:
			return usageError{fmt.Errorf("there is an argument too many for %s, %q: flags come first", c.Command.Name, c.Args().Get(most))}
		}
		return nil
	}
}

// sandboxes returns the sandboxes of the namespace that is asked for. With an error of one that cannot be read there are the others, too;
// with any other error, nil.
func sandboxes(c *cli.Context) ([]runtime.SandboxInfo, error) {
	configuration, err := config.Load(c.String("config"))
	if err != nil {
		return nil, err
	}
	all, err := runtime.Sandboxes(configuration.StateDir)
	runs, runsErr := standalone.List(configuration.StateDir)
	for _, run := range runs {
		if run.Exit != nil {
			all = append(all, endedRun(run))
		}
	}
	err = errors.Join(err, runsErr)
	slices.SortStableFunc(all, func(a, b runtime.SandboxInfo) int { return a.Began.Compare(b.Began) })
	chosen := []runtime.SandboxInfo{}
	for _, sandbox := range all {
		if !c.IsSet("namespace") || sandbox.Namespace == c.String("namespace") {
			chosen = append(chosen, sandbox)
		}
	}
	return chosen, err
}

// endedRun is what is kept of a run of `limpet run`, as a sandbox.
func endedRun(run standalone.Record) runtime.SandboxInfo {
	return runtime.SandboxInfo{
		Namespace: standalone.Namespace, ID: run.Request.Name, State: runtime.SandboxStopped, Doors: []string{},
		Machine: []runtime.HostProcess{}, Began: run.Began, Parts: []runtime.TracePart{},
		Containers: []runtime.ContainerInfo{{
			ID: run.Request.Name, State: runtime.StateStopped, Image: run.Request.Source, Command: run.Request.Args, Created: run.Began,
			Exit: &runtime.ExitRecord{Code: uint32(run.Exit.Code), At: run.Exit.At, Reason: run.Exit.Reason},
		}},
	}
}

// findRun returns a run that has ended.
func findRun(stateDir, namespace, name string) (runtime.Found, bool) {
	if namespace != "" && namespace != standalone.Namespace {
		return runtime.Found{}, false
	}
	run, err := standalone.Find(stateDir, name)
	if err != nil || run.Exit == nil {
		return runtime.Found{}, false
	}
	info := endedRun(run)
	return runtime.Found{SandboxInfo: info, Container: &info.Containers[0]}, true
}

// findSandbox returns what a reference means; its error says the way out.
func findSandbox(c *cli.Context, reference string) (runtime.Found, error) {
	configuration, err := config.Load(c.String("config"))
	if err != nil {
		return runtime.Found{}, err
	}
	found, err := runtime.FindSandbox(configuration.StateDir, c.String("namespace"), reference)
	switch {
	case errdefs.IsNotFound(err):
		if run, ok := findRun(configuration.StateDir, c.String("namespace"), reference); ok {
			return run, nil
		}
		err = fmt.Errorf("%w (`limpet ps` lists those there are; --config names the configuration of another state directory)", err)
	case errdefs.IsInvalidArgument(err):
		err = fmt.Errorf("%w: write more of it, or choose with --namespace", err)
	}
	return found, err
}

// findContainer is findSandbox where a container has to be meant.
func findContainer(c *cli.Context, reference string) (runtime.Found, error) {
	found, err := findSandbox(c, reference)
	if err != nil || found.Container != nil {
		return found, err
	}
	if len(found.Containers) == 0 {
		return found, fmt.Errorf("sandbox %s has no container now", found.ID)
	}
	var names []string
	for _, container := range found.Containers {
		name := found.ID + "/" + container.ID
		if container.Name != "" {
			name += " (" + container.Name + ")"
		}
		names = append(names, name)
	}
	return found, fmt.Errorf("sandbox %s has several containers: choose one of %s", found.ID, strings.Join(names, ", "))
}
