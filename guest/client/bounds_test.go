package client

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
)

// TestDataIsBounded has an agent that sends more than there can be.
func TestDataIsBounded(t *testing.T) {
	const limit = 6
	chunk := protocol.DataChunkResponse{Data: []byte("four")}
	var got strings.Builder
	n, err := askScripted(t, "file_read", chunk, chunk).receiveData(t.Context(), protocol.FileReadRequest{Path: "/x"}, limit, &got)
	if n != 4 || got.String() != "four" || !errdefs.IsResourceExhausted(err) {
		t.Errorf("got %d bytes, %q, %v", n, got.String(), err)
	}
	got.Reset()
	last := protocol.DataChunkResponse{Data: []byte("xy"), Done: true}
	requests := askScripted(t, "file_read", chunk, last)
	if n, err := requests.receiveData(t.Context(), protocol.FileReadRequest{Path: "/x"}, limit, &got); n != limit || err != nil {
		t.Errorf("got %d bytes, %q, %v", n, got.String(), err)
	}
}

// TestErrorsAreShort has an agent whose errors have no end.
func TestErrorsAreShort(t *testing.T) {
	code := string(protocol.CodeNotFound)
	r := askScripted(t, "ping", protocol.ErrorResponse{Message: strings.Repeat("x", 1<<20), Code: &code})
	if _, err := r.Do(t.Context(), protocol.PingRequest{}, nil); !errdefs.IsNotFound(err) || len(err.Error()) > 4<<10 {
		t.Errorf("an error of %d bytes", len(err.Error()))
	}
}
