package runtime

import (
	"context"
	"log/slog"

	"github.com/limpet-run/limpet/guest/protocol"
)

// WithTraceID returns a context of a call: what the guest is told with it carries the id, and its agent's log has it. An empty id stands
// for a new one.
func WithTraceID(ctx context.Context, id string) context.Context {
	if id == "" {
		id = protocol.NewTraceID()
	}
	return protocol.WithTraceID(ctx, id)
}

// LogTraces returns a handler that adds the trace id of a record's context to the record, as "trace_id".
func LogTraces(handler slog.Handler) slog.Handler { return protocol.LogTraces(handler) }
