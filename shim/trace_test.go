package shim

import (
	"testing"

	"github.com/containerd/ttrpc"
)

func TestTraceOfCall(t *testing.T) {
	for parent, want := range map[string]string{
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01": "4bf92f3577b34da6a3ce929d0e0e4736",
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01": "",
		"00-4bf92f3577b34da6a3ce929d0e0e4736":                     "",
		"":                                                        "",
	} {
		ctx := ttrpc.WithMetadata(t.Context(), ttrpc.MD{"traceparent": []string{parent}})
		if got := traceOf(ctx); got != want {
			t.Errorf("%q: %q, want %q", parent, got, want)
		}
	}
	if got := traceOf(t.Context()); got != "" {
		t.Errorf("without metadata: %q", got)
	}
}
