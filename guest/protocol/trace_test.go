package protocol

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

func TestTraces(t *testing.T) {
	var out bytes.Buffer
	logger := slog.New(LogTraces(slog.NewTextHandler(&out, nil))).With("a", 1).WithGroup("g")
	ctx := WithTraceID(t.Context(), "abc")
	logger.InfoContext(ctx, "with")
	if !strings.Contains(out.String(), "trace_id=abc") {
		t.Errorf("logged %q", out.String())
	}
	out.Reset()
	logger.InfoContext(WithTraceID(t.Context(), ""), "without")
	if strings.Contains(out.String(), "trace_id") {
		t.Errorf("logged %q", out.String())
	}
	if a, b := NewTraceID(), NewTraceID(); len(a) != 32 || a == b {
		t.Errorf("ids %q and %q", a, b)
	}
}
