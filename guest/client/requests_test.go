package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
)

// askScripted makes a connection for requests with an agent that follows a script: for each request of it, by name, its answers.
func askScripted(t *testing.T, script ...any) *Requests {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close() })
	go func() {
		defer theirs.Close()
		for _, step := range script {
			switch s := step.(type) {
			case string:
				message, err := protocol.ReadMessage(theirs)
				if err != nil {
					t.Errorf("want request %s: %v", s, err)
					return
				}
				request, err := protocol.AgentRequests.DecodeEnvelope(message)
				if name := protocol.AgentRequests.Name(request.Body); err != nil || name != s || request.TraceID == nil || *request.TraceID != "trace" {
					t.Errorf("request %s, %v: want %s and its trace", message, err, s)
				}
			case protocol.AgentResponse:
				message, err := protocol.AgentResponses.Encode(s)
				if err == nil {
					err = protocol.WriteMessage(theirs, message)
				}
				if err != nil {
					t.Errorf("answer %s: %v", protocol.AgentResponses.Name(s), err)
					return
				}
			}
		}
	}()
	return NewRequests(ours, "trace")
}

func TestDo(t *testing.T) {
	code := string(protocol.CodeNotFound)
	r := askScripted(t,
		"ping", protocol.PongResponse{Version: 1},
		"pull", protocol.ProgressResponse{Message: "a"}, protocol.ProgressResponse{Message: "b"},
		protocol.OKResponse{Data: []byte(`{"reference":"x"}`)},
		"query", protocol.ErrorResponse{Message: "no such image", Code: &code},
		"query", protocol.ErrorResponse{Message: "broken"},
		"query", protocol.PongResponse{},
		"vm_exec", protocol.CompletedResponse{ExitCode: 3, Stdout: []byte("out")},
	)
	if answer, err := r.Do(t.Context(), protocol.PingRequest{}, nil); answer != (protocol.PongResponse{Version: 1}) || err != nil {
		t.Errorf("ping: %v, %v", answer, err)
	}
	var steps []string
	info, err := Get[protocol.ImageInfo](t.Context(), r, protocol.PullRequest{Image: "x"},
		func(p protocol.ProgressResponse) { steps = append(steps, p.Message) })
	if info.Reference != "x" || err != nil || !reflect.DeepEqual(steps, []string{"a", "b"}) {
		t.Errorf("pull: %+v, %v after %q", info, err, steps)
	}
	if _, err := Get[protocol.ImageInfo](t.Context(), r, protocol.QueryRequest{Image: "x"}, nil); !errdefs.IsNotFound(err) ||
		err.Error() != "no such image" {
		t.Errorf("query: %v", err)
	}
	for range 2 {
		if _, err := Get[protocol.ImageInfo](t.Context(), r, protocol.QueryRequest{Image: "x"}, nil); !errdefs.IsInternal(err) {
			t.Errorf("query: %v", err)
		}
	}
	if done, err := r.Complete(t.Context(), protocol.VMExecRequest{Command: []string{"x"}}); err != nil ||
		done.ExitCode != 3 || string(done.Stdout) != "out" {
		t.Errorf("vm_exec: %+v, %v", done, err)
	}
	if _, err := r.Do(t.Context(), protocol.PingRequest{}, nil); err == nil {
		t.Error("an agent that is gone has answered")
	}
}

// TestDoGivesUp does not wait for an agent that does not answer.
func TestDoGivesUp(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	go func() { _, _ = protocol.ReadMessage(theirs) }()
	r := NewRequests(ours, "")
	defer r.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := r.Do(ctx, protocol.PingRequest{}, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ping: %v", err)
	}
}

func TestInteract(t *testing.T) {
	r := askScripted(t,
		"vm_exec", protocol.StartedResponse{}, "stdin", protocol.StdoutResponse{Data: []byte("out ")},
		protocol.StderrResponse{Data: []byte("err")},
		"stdin", protocol.StdoutResponse{Data: []byte("more")}, protocol.ExitedResponse{ExitCode: 137},
	)
	var stdout, stderr bytes.Buffer
	code, err := r.Interact(t.Context(), protocol.VMExecRequest{Command: []string{"x"}, Interactive: true}, Interaction{
		Stdin: strings.NewReader("in"), Stdout: &stdout, Stderr: &stderr,
	})
	if code != 137 || err != nil || stdout.String() != "out more" || stderr.String() != "err" {
		t.Errorf("%d, %v, %q, %q", code, err, stdout.String(), stderr.String())
	}
	sizes := make(chan protocol.Size, 1)
	sizes <- protocol.Size{Cols: 80, Rows: 25}
	r = askScripted(t, "run", protocol.StartedResponse{}, "stdin", "resize", protocol.ExitedResponse{})
	if _, err := r.Interact(t.Context(), protocol.RunRequest{Image: "x", TTY: true}, Interaction{Sizes: sizes}); err != nil {
		t.Error(err)
	}
	r = askScripted(t, "run", protocol.ErrorResponse{Message: "no"})
	if _, err := r.Interact(t.Context(), protocol.RunRequest{Image: "x", TTY: true}, Interaction{}); err == nil {
		t.Error("what did not start has run")
	}
}

func TestUploadAndDownload(t *testing.T) {
	ok := protocol.OKResponse{}
	r := askScripted(t,
		"file_write_begin", ok, "file_write_chunk", ok, "file_write_chunk", ok,
		"file_write_begin", ok, "file_write_chunk", ok,
		"file_read", protocol.DataChunkResponse{Data: []byte("ab")}, protocol.DataChunkResponse{Data: []byte("c"), Done: true},
		"file_write_begin", ok,
	)
	const size = protocol.FileChunk + 1
	if err := r.Upload(t.Context(), "/f", 0o600, size, bytes.NewReader(make([]byte, size))); err != nil {
		t.Error(err)
	}
	if err := r.Upload(t.Context(), "/f", 0o600, 0, strings.NewReader("")); err != nil {
		t.Error(err)
	}
	var got bytes.Buffer
	if n, err := r.Download(t.Context(), "/f", &got); n != 3 || err != nil || got.String() != "abc" {
		t.Errorf("downloaded %d, %v, %q", n, err, got.String())
	}
	if err := r.Upload(t.Context(), "/f", 0o600, 10, strings.NewReader("short")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("content that is too short: %v", err)
	}
	r = askScripted(t, "file_write_begin", ok)
	if err := r.Upload(t.Context(), "/f", 0o600, 3, strings.NewReader("long")); !errdefs.IsInvalidArgument(err) {
		t.Errorf("content that is too long: %v", err)
	}
}
