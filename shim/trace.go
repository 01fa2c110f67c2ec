package shim

import (
	"context"
	"regexp"
	"sync"

	"github.com/containerd/ttrpc"
)

// traceParent is what W3C's trace context says of a call: version, trace id, id of the caller's span, flags. containerd sends it with each
// call if it is told to trace (its plugin for OpenTelemetry). Like other expressions it is compiled when it is used: this program is started
// several times for each container, and has no time for that then.
var traceParent = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}$`)
})

// noTrace is the id that stands for none.
const noTrace = "00000000000000000000000000000000"

// traceOf is the trace that a call belongs to: containerd's; empty: it says none.
func traceOf(ctx context.Context) string {
	value, _ := ttrpc.GetMetadataValue(ctx, "traceparent")
	if value == "" {
		return ""
	}
	if parts := traceParent().FindStringSubmatch(value); parts != nil && parts[1] != noTrace {
		return parts[1]
	}
	return ""
}
