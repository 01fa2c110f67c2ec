package protocol

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
)

type traceKeyType struct{}

// NewTraceID makes a random trace id of the form that W3C's trace context has: 32 hexadecimal digits.
func NewTraceID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails: see crypto/rand
	return hex.EncodeToString(id[:])
}

// WithTraceID returns a context of the trace: what is sent with it carries the id, and what is logged with it through LogTraces has it.
func WithTraceID(ctx context.Context, id string) context.Context {
	if id == "" {
		return ctx
	}
	return context.WithValue(ctx, traceKeyType{}, id)
}

// TraceID is the trace that a context belongs to; "": none.
func TraceID(ctx context.Context) string {
	id, _ := ctx.Value(traceKeyType{}).(string)
	return id
}

// LogTraces returns a handler that adds the trace id of a record's context to the record, as "trace_id".
func LogTraces(handler slog.Handler) slog.Handler { return traceHandler{handler} }

type traceHandler struct{ slog.Handler }

// Handle implements slog.Handler.
func (h traceHandler) Handle(ctx context.Context, record slog.Record) error {
	if id := TraceID(ctx); id != "" {
		record = record.Clone()
		record.AddAttrs(slog.String(traceKey, id))
	}
	return h.Handler.Handle(ctx, record)
}

// WithAttrs implements slog.Handler.
func (h traceHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return traceHandler{h.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (h traceHandler) WithGroup(name string) slog.Handler {
	return traceHandler{h.Handler.WithGroup(name)}
}
