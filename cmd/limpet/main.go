// limpet is the operator's command line.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"context"

	"github.com/urfave/cli/v2"

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
	defer stop()
	app := &cli.App{
		Name:           "limpet",
		Usage:          "containers in microVMs, under containerd",
		Commands:       []*cli.Command{doctorCommand, configCommand},
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   func(_ *cli.Context, err error, _ bool) error { return usageError{err} },
	}
	err := app.RunContext(ctx, os.Args)
	if err != nil && !errors.Is(err, errFailed) {
		fmt.Fprintln(os.Stderr, "limpet:", err)
	}
	if code := exitCode(err); code != 0 {
		os.Exit(code)
	}
}

type usageError struct{ error }

func exitCode(err error) int {
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		return exitUsage
	default:
		return exitFailure
	}
}
