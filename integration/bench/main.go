// Command bench measures limpet beside runc, and beside the bare parts it is made of, in one run: the two sides of every row take
// turns, and medians are compared. It prints a table for people and writes JSON for programs.
//
//	go run ./integration/bench -n 5 -json bench.json
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/limpet-run/limpet/integration/harness"
)

func main() {
	runs := flag.Int("n", 5, "how often each side of a row is measured")
	execs := flag.Int("execs", 100, "how many execs are measured in a row")
	pods := flag.Int("pods", 20, "how many pods are started at once")
	jsonPath := flag.String("json", "", "a file to write the report to, as JSON")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx, *runs, *execs, *pods, *jsonPath); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, runs, execs, pods int, jsonPath string) (err error) {
	if runs < 1 || execs < 1 || pods < 1 {
		return errors.New("-n, -execs and -pods have to be at least 1")
	}
	build, err := harness.FindBuild(harness.Limpet, harness.Runc)
	if err != nil {
		return fmt.Errorf("something is missing:\n%w", err)
	}
	daemon, err := harness.Start(ctx, build)
	if err != nil {
		return err
	}
	b := &bench{ctx: ctx, daemon: daemon, runs: runs, rowOfExecs: execs, pods: pods}
	defer func() { err = errors.Join(err, b.cleanUp()) }()

	report := report{Runs: runs}
	for _, part := range []func() ([]row, error){
		b.starts, b.execs, b.execsInARow, b.streams, b.memory, b.boots, b.network, b.podsAtOnce, b.requests, b.copies, b.sidecar, b.codec,
	} {
		rows, err := part()
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
	ctx    context.Context
	daemon *harness.Daemon
	runs   int
	// rowOfExecs is how many execs are measured in a row.
	rowOfExecs int
	// pods is how many are started at once.
	pods  int
	count int // of the containers and execs made
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

// alternate measures a and z in turns.
func (b *bench) alternate(what string, a, z func() (float64, error)) (as, zs series, err error) {
	b.progress(what)
	for range b.runs {
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

// runtimes measures limpet and runc in turns and returns the row.
func (b *bench) runtimes(what, unit, aim string, measure func(runtime string) (float64, error)) (row, error) {
	of := func(runtime string) func() (float64, error) {
		return func() (float64, error) { return measure(runtime) }
	}
	limpet, runc, err := b.alternate(what, of(harness.Limpet), of(harness.Runc))
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
