package machine

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"time"
)

// NewLogger returns a logger that writes lines to the console. What is logged can depend on what containers do, and a serial console
// is slow, so no more than logBurst lines are written per logPeriod; the first line after a gap says how many are missing.
func NewLogger(console io.Writer) *slog.Logger {
	return slog.New(&limited{Handler: slog.NewTextHandler(console, nil), state: &limit{}})
}

// A screenful of lines per ten seconds tells a reader what goes on and costs less than a hundredth of the console's time.
const (
	logBurst  = 40
	logPeriod = 10 * time.Second
)

type limit struct {
	mu      sync.Mutex
	since   time.Time
	lines   int
	dropped int
}

// take counts a line at time now and tells whether it may be written and how many were dropped before it.
func (l *limit) take(now time.Time) (ok bool, dropped int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.since) >= logPeriod {
		dropped = l.dropped
		l.since, l.lines, l.dropped = now, 0, 0
	}
	if l.lines >= logBurst {
		l.dropped++
		return false, 0
	}
	l.lines++
	return true, dropped
}

type limited struct {
	slog.Handler
	state *limit
}

func (h *limited) Handle(ctx context.Context, record slog.Record) error {
	ok, dropped := h.state.take(time.Now())
	if !ok {
		return nil
	}
	if dropped > 0 {
		record.AddAttrs(slog.Int("lines_dropped", dropped))
	}
	return h.Handler.Handle(ctx, record)
}

func (h *limited) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &limited{h.Handler.WithAttrs(attrs), h.state}
}

func (h *limited) WithGroup(name string) slog.Handler {
	return &limited{h.Handler.WithGroup(name), h.state}
}
