// Command demonstration shows limpet at work: it starts a containerd of its own, runs `uname -a` in a microVM with `ctr`, prints
// it beside the host's, and stops all that it started, also when something fails or a person presses Ctrl-C. It ends `make run`,
// after the stages that make what it needs; their times come from a file.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/limpet-run/limpet/integration/harness"
)

// stopTimeout is how long it may take to kill the container and its virtual machine, and to put away what they leave.
const stopTimeout = 30 * time.Second

func main() {
	stages := flag.String("stages", "", "a file with the stages before: a line each, milliseconds, a tab, the name")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx, *stages); err != nil {
		fmt.Fprintln(os.Stderr, "demonstration:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, stagesPath string) error {
	var times timetable
	if stagesPath != "" {
		if err := times.read(stagesPath); err != nil {
			return err
		}
	}
	if err := demonstrate(ctx, os.Stdout, &times); err != nil {
		return err
	}
	fmt.Println()
	return times.print(os.Stdout)
}

func demonstrate(ctx context.Context, out io.Writer, times *timetable) (err error) {
	build, err := harness.FindBuild(harness.Limpet)
	if err != nil {
		return fmt.Errorf("something is missing:\n%w", err)
	}

	done := times.begin(out, "start containerd")
	daemon, err := harness.Start(ctx, build)
	if err != nil {
		return err
	}
	before, err := daemon.Inventory()
	if err != nil {
		return errors.Join(err, daemon.Stop())
	}
	defer func() {
		done := times.begin(out, "stop")
		err = errors.Join(err, stop(daemon, before))
		done()
	}()
	done()

	done = times.begin(out, "container")
	spec := harness.Spec{
		Runtime: harness.Limpet,
		ID:      "demonstration",
		Flags:   []string{"--rm"},
		Command: []string{"uname", "-a"},
	}
	args := daemon.Args("run", spec)
	fmt.Fprintln(out, "   ctr", strings.Join(args, " "))
	result := daemon.Ctr(ctx, args...)
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	if err := result.Err(); err != nil {
		return fmt.Errorf("%w\nthe end of containerd's log:\n%s", err, daemon.LogTail())
	}
	done()

	host, err := exec.CommandContext(ctx, "uname", "-a").Output()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\n   host   %s\n   guest  %s\n\n", strings.TrimSpace(string(host)), strings.TrimSpace(result.Stdout))
	return nil
}

// stop removes what is there of the container, and then containerd. It waits in between: a shim is still putting things away when
// `ctr` has its answer.
func stop(daemon *harness.Daemon, before harness.Inventory) error {
	// The context of the run may have ended: that is why this happens.
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	ids, err := daemon.ContainerIDs(ctx)
	errs := []error{err}
	for _, id := range ids {
		errs = append(errs, daemon.Remove(ctx, id))
	}
	errs = append(errs, daemon.AwaitNothingSince(ctx, before), daemon.RemoveCgroups())
	return errors.Join(append(errs, daemon.Stop())...)
}
