// limpet is the operator's command line.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/limpet-run/limpet/internal/printable"
	"github.com/limpet-run/limpet/runtime/anchor"
)

// Exit statuses as shells expect them.
const (
	exitFailure = 1
	exitUsage   = 2
)

// errFailed ends the program with exitFailure when what went wrong was already said.
var errFailed = errors.New("failed")

func main() {
	anchor.MainIfAsked()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run runs the command line and returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	app := &cli.App{
		Name:      "limpet",
		Usage:     "containers in microVMs, with containerd and without",
		Writer:    stdout,
		ErrWriter: stderr,
		Commands:  commands(),

		EnableBashCompletion: true,
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usageError{fmt.Errorf("unknown command %q: see limpet --help", c.Args().First())}
			}
			return cli.ShowAppHelp(c)
		},
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   onUsageError,

		DisableSliceFlagSeparator: true, // a value may have a comma in it
	}
	err := app.RunContext(ctx, args)
	if text := errorText(err); text != "" {
		fmt.Fprintln(stderr, "limpet:", text)
	}
	return exitCode(err)
}

// commands are all that limpet can do.
func commands() []*cli.Command {
	list := slices.Concat(
		inCategory("Sandboxes",
			[]*cli.Command{runCommand(), superviseCommand(), psCommand()},
			withSandboxes(
				stopCommand(),
				killCommand(),
				inspectCommand(),
				execCommand(),
				cpCommand(),
				logsCommand(),
				consoleCommand(),
				statsCommand(),
				forwardCommand(),
				sshAgentCommand(),
				pullCommand(),
				imagesCommand(),
				agentCommand(),
				rmCommand(),
				traceCommand(),
			)),
		inCategory("This host", []*cli.Command{
			templateCommand(),
			sidecarCommand(),
			poolCommand(),
			doctorCommand(),
			installCommand(),
			configCommand(),
			completionCommand(),
			manCommand(),
		}),
	)
	hideDefaults(list)
	return list
}

// hideDefaults lets nobody be told that a switch is off unless it is set.
func hideDefaults(commands []*cli.Command) {
	for _, command := range commands {
		for _, flag := range command.Flags {
			if flag, ok := flag.(*cli.BoolFlag); ok {
				flag.DisableDefaultText = true
			}
		}
		hideDefaults(command.Subcommands)
	}
}

type usageError struct{ error }

// statusError ends the program with that exit status. err is nil if there is nothing to say.
type statusError struct {
	err  error
	code int
}

func (e statusError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

// errorText is what there is to say of an error, a part of which may be the guest's word.
func errorText(err error) string {
	if err == nil || errors.Is(err, errFailed) {
		return ""
	}
	return printable.Lines(err.Error())
}

func onUsageError(_ *cli.Context, err error, _ bool) error { return usageError{err} }

func exitCode(err error) int {
	var usage usageError
	var status statusError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return status.code
	case errors.As(err, &usage):
		return exitUsage
	default:
		return exitFailure
	}
}
