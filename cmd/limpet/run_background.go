package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/runtime/config"
	"github.com/limpet-run/limpet/runtime/exitcode"
	"github.com/limpet-run/limpet/runtime/standalone"
)

// superviseVerb is the command by which this program holds a run in the background. State directory and name follow it for who looks at
// processes.
const superviseVerb = "supervise"

func superviseCommand() *cli.Command {
	return &cli.Command{
		Name:   superviseVerb,
		Hidden: true, // run --detach calls it
		Action: func(c *cli.Context) error {
			signal.Ignore(unix.SIGPIPE, unix.SIGHUP) // who started it may be gone
			return standalone.Supervise(c.Context, os.Stdin, os.Stdout)
		},
	}
}

// runBackground starts a run that goes on when this program has ended, and prints its name.
func runBackground(c *cli.Context, request standalone.Request, configuration config.Config) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGHUP, unix.SIGINT, unix.SIGTERM)
	defer signal.Stop(signals)
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(c.Context))
	defer cancel(nil)
	go func() {
		select {
		case received := <-signals:
			cancel(errInterrupted{received.(unix.Signal)})
		case <-ctx.Done():
		}
	}()
	supervisor := exec.Command("/proc/self/exe", superviseVerb, configuration.StateDir, request.Name)
	progress := newProgress(os.Stderr)
	err := standalone.Detach(ctx, supervisor, request, configuration, progress.say)
	progress.done()
	if interrupted, ok := errors.AsType[errInterrupted](err); ok {
		return statusError{err, exitcode.Signal + int(interrupted.signal)}
	}
	if err != nil {
		return runError(err)
	}
	_, err = fmt.Fprintln(c.App.Writer, request.Name)
	return err
}
