// Command bench measures limpet beside runc, and beside the bare parts it is made of, in one run: the two sides of every row take
// turns, and medians are compared. It prints a table for people and writes JSON for programs.
//
//	go run ./integration/bench -rows starts -json bench.json
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/limpet-run/limpet/integration/harness"
)

func main() {
	var o options
	var rows string
	flag.IntVar(&o.runs, "n", 5, "how often each side of a row is measured")
	flag.IntVar(&o.starts, "starts", 20, "how often starts and execs are measured")
	flag.IntVar(&o.execs, "execs", 100, "how many execs are measured in a row")
	flag.IntVar(&o.pods, "pods", 20, "how many pods are started at once")
	flag.IntVar(&o.sandboxes, "sandboxes", 50, "how many sandboxes are started at once")
	flag.StringVar(&rows, "rows", "", "a regular expression: only the groups of rows whose names match are measured. Of "+groupNames())
	jsonPath := flag.String("json", "", "a file to write the report to, as JSON")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx, o, rows, *jsonPath); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options say how much is measured.
type options struct {
	runs, starts, execs, pods, sandboxes int
}

// groups are the rows that are measured together, in the order of the report.
var groups = []struct {
	name    string
	measure func(*bench) ([]row, error)
}{
	{"starts", (*bench).startRows},
	{"pool", (*bench).poolRows},
	{"wake", (*bench).wakes},
	{"exec", (*bench).execRow},
	{"execs-in-a-row", (*bench).execsInARow},
	{"streams", (*bench).streams},
	{"memory", (*bench).memory},
	{"private-memory", (*bench).privateMemory},
	{"boot", (*bench).boots},
	{"network", (*bench).network},
	{"sandboxes-at-once", (*bench).sandboxesAtOnce},
	{"pods-at-once", (*bench).podsAtOnce},
	{"requests", (*bench).requests},
	{"copies", (*bench).copies},
	{"sidecar", (*bench).sidecar},
	{"codec", (*bench).codec},
}

func groupNames() string {
	var names []string
	for _, group := range groups {
		names = append(names, group.name)
	}
	return strings.Join(names, ", ")
}

func run(ctx context.Context, o options, rows, jsonPath string) (err error) {
	if min(o.runs, o.starts, o.execs, o.pods, o.sandboxes) < 1 {
		return errors.New("-n, -starts, -execs, -pods and -sandboxes have to be at least 1")
	}
	chosen, err := regexp.Compile(rows)
	if err != nil {
		return fmt.Errorf("-rows: %w", err)
	}
	build, err := harness.FindBuild(harness.Limpet, harness.Runc)
	if err != nil {
		return fmt.Errorf("something is missing:\n%w", err)
	}
	daemon, err := harness.Start(ctx, build)
	if err != nil {
		return err
	}
	b := &bench{options: o, ctx: ctx, daemon: daemon}
	defer func() { err = errors.Join(err, b.cleanUp()) }()

	report := report{}
	for _, group := range groups {
		if !chosen.MatchString(group.name) {
			continue
		}
		rows, err := group.measure(b)
		if err != nil {
			return err
		}
		report.Rows = append(report.Rows, rows...)
	}
	if err := report.print(os.Stdout); err != nil {
		return err
	}
	if jsonPath == "" {
		return nil
	}
	return report.writeJSON(jsonPath)
}

// bench is one run of the benchmarks.
type bench struct {
	options
	ctx    context.Context
	daemon *harness.Daemon
	count  int // of the containers and execs made
}

// cleanUp removes what a measurement that failed left behind, and stops containerd.
func (b *bench) cleanUp() error {
	// The context of the run may have ended: that is why this happens.
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return errors.Join(b.daemon.RemoveAll(ctx), b.daemon.RemoveCgroups(), b.daemon.Stop())
}

// progress says what is being measured, on standard error.
func (b *bench) progress(what string) { fmt.Fprintln(os.Stderr, "bench:", what) }

// alternate measures a and z in turns, each so many times.
func (b *bench) alternate(what string, runs int, a, z func() (float64, error)) (as, zs series, err error) {
	b.progress(what)
	for range runs {
		for _, side := range []struct {
			measure func() (float64, error)
			values  *series
		}{{a, &as}, {z, &zs}} {
			value, err := side.measure()
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %w", what, err)
			}
			*side.values = append(*side.values, value)
		}
	}
	return as, zs, nil
}

// runtimes measures limpet and runc in turns, each so many times, and returns the row.
func (b *bench) runtimes(what, unit, aim string, runs int, measure func(runtime string) (float64, error)) (row, error) {
	of := func(runtime string) func() (float64, error) {
		return func() (float64, error) { return measure(runtime) }
	}
	limpet, runc, err := b.alternate(what, runs, of(harness.Limpet), of(harness.Runc))
	return row{Name: what, Unit: unit, Limpet: limpet, Reference: runc, ReferenceName: "runc", Aim: aim}, err
}

func (b *bench) spec(runtime string, flags []string, command ...string) harness.Spec {
	b.count++
	return harness.Spec{Runtime: runtime, ID: fmt.Sprintf("bench-%d", b.count), Flags: flags, Command: command}
}

// milliseconds since a time.
func milliseconds(since time.Time) float64 {
	return float64(time.Since(since)) / float64(time.Millisecond)
}
