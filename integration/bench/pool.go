package main

import (
	"fmt"

	"github.com/limpet-run/limpet/integration/harness"
)

// poolRows measures starts with a pool in which one machine waits. It has another one again before anything else is measured.
func (b *bench) poolRows() ([]row, error) {
	pool, err := b.daemon.StartPool(1, func(string) {})
	if err != nil {
		return nil, err
	}
	defer pool.End()
	if err := pool.AwaitSpare(b.ctx, 1); err != nil {
		return nil, err
	}
	var rows []row
	for _, start := range []struct {
		what    string
		measure func(runtime string) (float64, error)
	}{
		{"ctr run --rm of true, from the pool", func(runtime string) (float64, error) { return b.life(runtime, "") }},
		{"create to first output, from the pool", b.firstOutput},
	} {
		row, err := b.runtimes(start.what, "ms", "<= 4.0", b.starts, func(runtime string) (float64, error) {
			if runtime != harness.Limpet {
				return start.measure(runtime)
			}
			return b.fromPool(pool, start.measure)
		})
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// fromPool measures a start of limpet's, which takes the pool's only spare, and waits for the next one.
func (b *bench) fromPool(pool *harness.Pool, measure func(runtime string) (float64, error)) (float64, error) {
	taken := b.daemon.TakenServers()
	took, err := measure(harness.Limpet)
	if err != nil {
		return 0, err
	}
	if now := b.daemon.TakenServers(); now != taken+1 {
		return 0, fmt.Errorf("%d servers came from the pool, want 1", now-taken)
	}
	return took, pool.AwaitSpare(b.ctx, 1)
}
