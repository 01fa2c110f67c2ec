package runtime

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// trace measures the stages of a start, some of which run at the same time.
type trace struct {
	began time.Time

	mu     sync.Mutex
	stages []slog.Attr
}

func newTrace() *trace { return &trace{began: time.Now()} }

// stage begins a stage and returns what ends it.
func (t *trace) stage(name string) func() {
	began := time.Now()
	return func() {
		took := milliseconds(time.Since(began))
		t.mu.Lock()
		defer t.mu.Unlock()
		t.stages = append(t.stages, slog.Float64(name, took))
	}
}

// log writes one line with the milliseconds of the whole and of each stage.
func (t *trace) log(ctx context.Context, log *slog.Logger, message string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	log.LogAttrs(ctx, slog.LevelInfo, message,
		slog.Float64("ms", milliseconds(time.Since(t.began))), slog.GroupAttrs("stage_ms", t.stages...))
}

// milliseconds rounds to a tenth: a log is for people.
func milliseconds(span time.Duration) float64 {
	return float64(span.Round(100*time.Microsecond).Microseconds()) / 1000
}
