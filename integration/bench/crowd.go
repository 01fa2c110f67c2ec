package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/limpet-run/limpet/integration/harness"
)

// sandboxesAtOnce measures many sandboxes that are started at once: how long each takes until its container runs, and what each adds to the
// host's memory when all are idle. Each side is measured once: it is many values already.
func (b *bench) sandboxesAtOnce() ([]row, error) {
	took, memory := map[string]series{}, map[string]float64{}
	for _, runtime := range []string{harness.Limpet, harness.Runc} {
		b.progress(fmt.Sprintf("%d sandboxes at once: %s", b.sandboxes, runtime))
		var err error
		if took[runtime], memory[runtime], err = b.crowdOf(runtime); err != nil {
			return nil, err
		}
	}
	compare := func(name, unit, aim string, value func(runtime string) float64) row {
		return row{
			Name: name, Unit: unit, Aim: aim, ReferenceName: "runc",
			Limpet: series{value(harness.Limpet)}, Reference: series{value(harness.Runc)},
		}
	}
	var rows []row
	for _, percent := range []int{50, 99, 100} {
		name := fmt.Sprintf("p%d of %d sandboxes at once, to started", percent, b.sandboxes)
		rows = append(rows, compare(name, "ms", "", func(runtime string) float64 { return took[runtime].percentile(percent) }))
	}
	name := fmt.Sprintf("memory of each of %d idle sandboxes (PSS)", b.sandboxes)
	return append(rows, compare(name, "MiB", "limpet <= 85 MiB", func(runtime string) float64 { return memory[runtime] })), nil
}

// crowdOf starts the sandboxes of a runtime, measures them and removes them.
func (b *bench) crowdOf(runtime string) (took series, mebibytes float64, err error) {
	before, err := b.family()
	if err != nil {
		return nil, 0, err
	}
	var specs []harness.Spec
	for range b.sandboxes {
		specs = append(specs, b.spec(runtime, []string{"--detach", "--null-io"}, "sleep", "1000000"))
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(b.ctx), podRemoval)
		defer cancel()
		var removal errgroup.Group
		for _, spec := range specs {
			removal.Go(func() error { return b.daemon.Remove(ctx, spec.ID) })
		}
		err = errors.Join(err, removal.Wait())
	}()
	took = make(series, len(specs))
	var group errgroup.Group
	began := time.Now()
	for i, spec := range specs {
		group.Go(func() error {
			err := b.daemon.Ctr(b.ctx, b.daemon.Args("run", spec)...).Err()
			took[i] = milliseconds(began)
			return err
		})
	}
	if err := errors.Join(group.Wait(), b.settle()); err != nil {
		return nil, 0, err
	}
	all, err := b.memorySince(before)
	return took, all / float64(len(specs)), err
}
