package main

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"

	"github.com/docker/go-units"
	"github.com/urfave/cli/v2"

	"github.com/limpet-run/limpet/runtime/config"
	"github.com/limpet-run/limpet/runtime/standalone"
)

func runCommand() *cli.Command {
	return &cli.Command{
		Name:      "run",
		Usage:     "run a command in a microVM, without containerd",
		ArgsUsage: "IMAGE|ROOTFS|ARCHIVE [--] [COMMAND [ARGUMENT...]]",
		Description: "IMAGE is fetched from its registry by the guest, each time, over a network that it has only for that, unless --net.\n" +
			"ROOTFS is a directory with a root file system. The command can change what is in it, unless --read-only.\n" +
			"ARCHIVE is an image in a file: an OCI layout, a directory or a tar archive of one, or what `docker save` writes.\n" +
			"What begins with / or . is not the name of an image. The command ends when limpet does, unless --detach.\n\n" +
			"The exit status is the command's, 128 and the number of the signal that killed it, 124 after --timeout, 126 if it cannot\n" +
			"be executed, 127 if it is not there, and 125 if limpet fails.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "interactive", Aliases: []string{"i"}, Usage: "give it the standard input"},
			&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "give it a terminal"},
			&cli.BoolFlag{Name: "detach", Aliases: []string{"d"},
				Usage: "leave it in the background and print its name: see logs, stop, kill and rm"},
			&cli.StringFlag{Name: "name", Usage: "`NAME` of the sandbox (default: one is made up)"},
			&cli.BoolFlag{Name: "rm", Usage: "keep neither exit status nor output once it has ended in the background"},
			&cli.StringSliceFlag{Name: "volume", Aliases: []string{"v"}, KeepSpace: true,
				Usage: "`HOST:GUEST[:ro]`, a directory or file of the host"},
			&cli.StringSliceFlag{Name: "publish", Aliases: []string{"p"},
				Usage: "`[ADDRESS:]HOST:GUEST`, a TCP port of the host, by default of its localhost, that leads to the guest's localhost"},
			&cli.BoolFlag{Name: "net", Usage: "give it a network, as the configuration describes it"},
			&cli.StringSliceFlag{Name: "allow-host",
				Usage: "`NAME`, such as example.com or *.example.com, that it may reach, and nothing else but others that are allowed; implies --net"},
			&cli.StringSliceFlag{Name: "allow-cidr", Usage: "`RANGE` of addresses that it may reach, likewise"},
			&cli.StringFlag{Name: "platform", Usage: "`OS/ARCH` of the image (default: the guest's)"},
			&cli.Float64Flag{Name: "cpus", Usage: "`NUMBER` of processors that it may use (default: vm.vcpus of the configuration)"},
			&cli.StringFlag{Name: "memory", Aliases: []string{"m"}, Usage: "`SIZE` of memory that it may use, such as 512m"},
			&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, KeepSpace: true,
				Usage: "variable `NAME[=VALUE]`; without a value it has limpet's"},
			&cli.StringSliceFlag{Name: "env-file", KeepSpace: true, Usage: "`FILE` with a variable in each line"},
			&cli.StringFlag{Name: "workdir", Aliases: []string{"w"}, Usage: "working `DIRECTORY` in the guest"},
			&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "`USER[:GROUP]`, names or numbers"},
			&cli.StringFlag{Name: "hostname", Usage: "`NAME` of the guest (default: the sandbox's)"},
			&cli.BoolFlag{Name: "read-only", Usage: "it cannot change its root file system"},
			&cli.StringFlag{Name: "entrypoint", Usage: "`PROGRAM` that gets the command as its arguments"},
			&cli.DurationFlag{Name: "timeout", Usage: "kill it after this `TIME`, such as 30s"},
			&cli.StringFlag{Name: "config", Usage: "configuration `FILE` (default: /etc/limpet/config.toml if it exists)"},
			&cli.BoolFlag{Name: "debug", Usage: "log to the standard error"},
		},
		UseShortOptionHandling: true,
		// The status 2 could be the command's.
		OnUsageError: func(_ *cli.Context, err error, _ bool) error { return runError(err) },
		Action:       runRun,
	}
}

func runRun(c *cli.Context) error {
	request, err := requestOf(c)
	if err != nil {
		return runError(err)
	}
	configuration, err := config.Load(c.String("config"))
	if err != nil {
		return runError(err)
	}
	if os.Geteuid() != 0 {
		return runError(fmt.Errorf("run needs the rights of root: for namespaces, mounts and devices"))
	}
	if c.Bool("detach") {
		return runBackground(c, request, configuration)
	}
	return runForeground(c, standalone.Options{Request: request, Config: configuration, Logger: runLogger(c)})
}

// runError is an error of limpet's, with the exit status that says so.
func runError(err error) error { return statusError{err, standalone.Code(err)} }

func runLogger(c *cli.Context) *slog.Logger {
	if !c.Bool("debug") {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(c.App.ErrWriter, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// requestOf is what the command line asks for.
func requestOf(c *cli.Context) (standalone.Request, error) {
	request := standalone.Request{
		Name: c.String("name"), Terminal: c.Bool("tty"), Input: c.Bool("interactive"), Remove: c.Bool("rm"),
		Workdir: c.String("workdir"), User: c.String("user"), Hostname: c.String("hostname"), ReadOnly: c.Bool("read-only"),
		CPUs: c.Float64("cpus"), Timeout: c.Duration("timeout"), Platform: c.String("platform"),
		AllowHosts: c.StringSlice("allow-host"), AllowCIDRs: c.StringSlice("allow-cidr"),
		Network: c.Bool("net") || c.IsSet("allow-host") || c.IsSet("allow-cidr"),
	}
	var err error
	if request.Source, request.Args, err = sourceAndCommand(c.Args().Slice()); err != nil {
		return request, err
	}
	if request.Name == "" {
		request.Name = madeUpName()
	}
	if err := standalone.CheckName(request.Name); err != nil {
		return request, err
	}
	if c.Bool("detach") && request.Input {
		return request, errors.New("--interactive and --detach: what is in the background gets no input")
	}
	if c.IsSet("entrypoint") {
		entrypoint := c.String("entrypoint")
		request.Entrypoint = &entrypoint
	}
	if c.IsSet("cpus") && request.CPUs < 0.01 {
		return request, fmt.Errorf("--cpus %v: it takes at least 0.01", request.CPUs)
	}
	if c.IsSet("timeout") && request.Timeout <= 0 {
		return request, fmt.Errorf("--timeout %s: it is no time span", request.Timeout)
	}
	if c.IsSet("memory") {
		if request.Memory, err = units.RAMInBytes(c.String("memory")); err != nil || request.Memory <= 0 {
			return request, fmt.Errorf("--memory %q is no size such as 512m or 2g", c.String("memory"))
		}
	}
	if request.Env, err = environment(c.StringSlice("env-file"), c.StringSlice("env"), os.LookupEnv); err != nil {
		return request, err
	}
	for _, text := range c.StringSlice("volume") {
		volume, err := standalone.ParseVolume(text)
		if err != nil {
			return request, err
		}
		request.Volumes = append(request.Volumes, volume)
	}
	for _, text := range c.StringSlice("publish") {
		port, err := standalone.ParsePort(text)
		if err != nil {
			return request, err
		}
		request.Ports = append(request.Ports, port)
	}
	return request, nil
}

// sourceAndCommand splits SOURCE [--] COMMAND.
func sourceAndCommand(args []string) (source string, command []string, err error) {
	if len(args) == 0 {
		return "", nil, errors.New("run what? Name an image, or a directory with a root file system, and a command after it")
	}
	command = args[1:]
	if len(command) > 0 && command[0] == "--" {
		command = command[1:]
	}
	source, err = standalone.ResolveSource(args[0])
	return source, command, err
}

// madeUpName is a name that nobody else has.
func madeUpName() string {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789"
	name := []byte("run-")
	for range 8 {
		name = append(name, letters[rand.IntN(len(letters))])
	}
	return string(name)
}

// environment is what files and flags say of variables, the flags last. A variable without a value has that of lookup, or is left out.
func environment(files, flags []string, lookup func(string) (string, bool)) ([]string, error) {
	var lines []string
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("--env-file: %w", err)
		}
		for line := range strings.Lines(string(text)) {
			line = strings.TrimRight(line, "\r\n")
			if trimmed := strings.TrimSpace(line); trimmed != "" && trimmed[0] != '#' {
				lines = append(lines, strings.TrimLeft(line, " \t"))
			}
		}
	}
	var variables []string
	for _, line := range append(lines, flags...) {
		name, _, hasValue := strings.Cut(line, "=")
		if name == "" {
			return nil, fmt.Errorf("variable %q has no name", line)
		}
		if !hasValue {
			value, ok := lookup(name)
			if !ok {
				continue
			}
			line = name + "=" + value
		}
		variables = append(variables, line)
	}
	return variables, nil
}
