package shim

import (
	"context"
	"log/slog"
	"slices"
	"sync/atomic"
)

// sandboxField is the field of a line of the log that names the sandbox.
const sandboxField = "sandbox"

// logTarget is where the log of a process goes that changes its identity: to another handler then, under another sandbox's name, also by
// loggers that were made before.
type logTarget struct{ now atomic.Pointer[logPlace] }

type logPlace struct {
	handler slog.Handler
	sandbox string // replaces what loggers say; empty: nothing does
}

func newLogTarget(handler slog.Handler) *logTarget {
	t := &logTarget{}
	t.set(handler, "")
	return t
}

// set changes where the log goes.
func (t *logTarget) set(handler slog.Handler, sandbox string) {
	t.now.Store(&logPlace{handler, sandbox})
}

// handler is what loggers are made with.
func (t *logTarget) handler() slog.Handler { return targetHandler{target: t} }

// targetHandler adds what a logger says in each line when the line is written.
type targetHandler struct {
	target *logTarget
	with   []func(place *logPlace, handler slog.Handler) slog.Handler
}

// Enabled implements slog.Handler.
func (h targetHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.target.now.Load().handler.Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (h targetHandler) Handle(ctx context.Context, record slog.Record) error {
	place := h.target.now.Load()
	handler := place.handler
	for _, with := range h.with {
		handler = with(place, handler)
	}
	return handler.Handle(ctx, record)
}

// WithAttrs implements slog.Handler.
func (h targetHandler) WithAttrs(attributes []slog.Attr) slog.Handler {
	return h.add(func(place *logPlace, handler slog.Handler) slog.Handler {
		named := slices.Clone(attributes)
		for i, attribute := range named {
			if attribute.Key == sandboxField && place.sandbox != "" {
				named[i] = slog.String(sandboxField, place.sandbox)
			}
		}
		return handler.WithAttrs(named)
	})
}

// WithGroup implements slog.Handler.
func (h targetHandler) WithGroup(name string) slog.Handler {
	return h.add(func(_ *logPlace, handler slog.Handler) slog.Handler { return handler.WithGroup(name) })
}

func (h targetHandler) add(with func(*logPlace, slog.Handler) slog.Handler) slog.Handler {
	return targetHandler{h.target, append(slices.Clone(h.with), with)}
}
