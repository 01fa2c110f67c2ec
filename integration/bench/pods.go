package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/limpet-run/limpet/integration/harness"
)

const (
	podContainers = 2
	// podRemoval is how long the removal of all pods may take.
	podRemoval = 2 * time.Minute
)

// podsAtOnce measures how long each of many pods takes to be ready that a kubelet starts at once. Each side is measured once: it is many
// values already.
func (b *bench) podsAtOnce() ([]row, error) {
	took := map[string]series{}
	for _, handler := range []string{harness.HandlerPause, harness.HandlerRunc} {
		b.progress(fmt.Sprintf("%d pods at once: %s", b.pods, handler))
		ready, err := b.crowd(handler)
		if err != nil {
			return nil, err
		}
		for _, duration := range ready {
			took[handler] = append(took[handler], float64(duration)/float64(time.Millisecond))
		}
	}
	var rows []row
	for _, percent := range []int{50, 99} {
		rows = append(rows, row{
			Name: fmt.Sprintf("p%d of %d pods at once, to ready", percent, b.pods), Unit: "ms",
			Limpet:    series{took[harness.HandlerPause].percentile(percent)},
			Reference: series{took[harness.HandlerRunc].percentile(percent)}, ReferenceName: "runc",
		})
	}
	return rows, nil
}

// crowd starts the pods, removes them, and returns how long each took to be ready.
func (b *bench) crowd(handler string) (_ []time.Duration, err error) {
	crowd, err := b.daemon.StartCrowd(b.ctx, []string{handler}, "bench-"+handler, b.pods, podContainers)
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), podRemoval)
		defer cancel()
		err = errors.Join(err, crowd.Remove(ctx))
	}()
	return crowd.Ready, err
}
