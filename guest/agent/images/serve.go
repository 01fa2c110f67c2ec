package images

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/go-json-experiment/json"

	"github.com/limpet-run/limpet/guest/protocol"
)

// Serve reads one machine request from r and writes the responses to w, each as protocol.WriteMessage does: what is told on the way, and
// last the answer or an error. It fails only if it cannot read or write.
func Serve(ctx context.Context, options Options, r io.Reader, w io.Writer) error {
	out := &responder{w: w}
	text, err := protocol.ReadMessage(bufio.NewReader(r))
	if err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	envelope, err := protocol.AgentRequests.DecodeEnvelope(text)
	if err != nil {
		out.fail(err, protocol.CodeInvalidRequest)
		return out.err
	}
	name := protocol.AgentRequests.Name(envelope.Body)
	options.Logger = options.Logger.With("method", name)
	if envelope.TraceID != nil {
		options.Logger = options.Logger.With("trace_id", *envelope.TraceID)
	}
	job, ok := jobs[name]
	if !ok {
		err := fmt.Errorf("a %T is no request about images: %w", envelope.Body, errdefs.ErrInvalidArgument)
		out.fail(err, protocol.CodeInvalidRequest)
		return out.err
	}
	store, err := Open(options)
	if err == nil {
		err = job.do(ctx, store, envelope.Body, out)
	}
	if err != nil {
		options.Logger.Error("request failed", "error", err)
		out.fail(err, job.code)
	}
	return out.err
}

// job is how a request is served. do writes all responses but that of an error, whose code is the given one unless the error's kind
// has a code of its own.
type job struct {
	code protocol.Code
	do   func(ctx context.Context, store *Store, request protocol.AgentRequest, out *responder) error
}

// jobs are the requests that are served, by name.
var jobs = map[string]job{
	"pull":            on(protocol.CodePullFailed, servePull),
	"query":           on(protocol.CodeQueryFailed, serveQuery),
	"list_images":     on(protocol.CodeListFailed, serveList),
	"garbage_collect": on(protocol.CodeGCFailed, serveCollect),
	"prepare_overlay": on(protocol.CodeOverlayFailed, servePrepare),
	"cleanup_overlay": on(protocol.CodeCleanupFailed, serveCleanup),
	"export_layer":    on(protocol.CodeExportFailed, serveExport),
	"format_storage":  on(protocol.CodeFormatFailed, serveFormat),
	"storage_status":  on(protocol.CodeStatusFailed, serveStatus),
	"network_test":    on(protocol.CodeInternal, serveReach),
}

// on makes a job of a function for one kind of request.
func on[R protocol.AgentRequest](code protocol.Code, do func(context.Context, *Store, R, *responder) error) job {
	return job{code, func(ctx context.Context, store *Store, request protocol.AgentRequest, out *responder) error {
		return do(ctx, store, request.(R), out)
	}}
}

func servePull(ctx context.Context, store *Store, request protocol.PullRequest, out *responder) error {
	info, err := store.Pull(ctx, request, func(progress protocol.ProgressResponse) { out.send(progress) })
	return out.data(info, err)
}

func serveQuery(_ context.Context, store *Store, request protocol.QueryRequest, out *responder) error {
	info, err := store.Query(request.Image)
	return out.data(info, err)
}

func serveList(_ context.Context, store *Store, _ protocol.ListImagesRequest, out *responder) error {
	list, err := store.List()
	return out.data(list, err)
}

func serveCollect(ctx context.Context, store *Store, request protocol.GarbageCollectRequest, out *responder) error {
	result, err := store.Collect(ctx, request.DryRun, request.PurgeAll)
	return out.data(result, err)
}

func servePrepare(_ context.Context, store *Store, request protocol.PrepareOverlayRequest, out *responder) error {
	info, err := store.PrepareOverlay(request.Image, request.WorkloadID)
	return out.data(info, err)
}

func serveCleanup(_ context.Context, store *Store, request protocol.CleanupOverlayRequest, out *responder) error {
	return out.done(store.CleanupOverlay(request.WorkloadID))
}

func serveExport(ctx context.Context, store *Store, request protocol.ExportLayerRequest, out *responder) error {
	chunks := &chunkWriter{out: out}
	if err := store.Export(ctx, request.ImageDigest, request.LayerIndex, chunks); err != nil {
		return err
	}
	return chunks.finish()
}

func serveFormat(ctx context.Context, store *Store, _ protocol.FormatStorageRequest, out *responder) error {
	return out.done(store.Format(ctx))
}

func serveStatus(_ context.Context, store *Store, _ protocol.StorageStatusRequest, out *responder) error {
	status, err := store.Status()
	return out.data(status, err)
}

func serveReach(ctx context.Context, _ *Store, request protocol.NetworkTestRequest, out *responder) error {
	result, err := reach(ctx, request.URL)
	return out.data(result, err)
}

// codeOf is the code of an error: that of its kind if the caller can do something about it, else the request's own.
func codeOf(err error, request protocol.Code) protocol.Code {
	switch {
	case errdefs.IsNotFound(err):
		return protocol.CodeNotFound
	case errdefs.IsInvalidArgument(err):
		return protocol.CodeInvalidRequest
	}
	return request
}

// responder writes responses. After an error it writes no more.
type responder struct {
	w   io.Writer
	err error
}

func (r *responder) send(response protocol.AgentResponse) {
	if r.err != nil {
		return
	}
	text, err := protocol.AgentResponses.Encode(response)
	if err == nil {
		err = protocol.WriteMessage(r.w, text)
	}
	r.err = err
}

// data answers with data, unless there was an error.
func (r *responder) data(content any, err error) error {
	if err != nil {
		return err
	}
	text, err := json.Marshal(content)
	if err != nil {
		return &protocol.Error{Message: err.Error(), Code: protocol.CodeSerialization}
	}
	r.send(protocol.OKResponse{Data: text})
	return nil
}

func (r *responder) done(err error) error {
	if err == nil {
		r.send(protocol.OKResponse{})
	}
	return err
}

func (r *responder) fail(err error, code protocol.Code) {
	if own, ok := errors.AsType[*protocol.Error](err); ok {
		code = own.Code
	}
	text := string(codeOf(err, code))
	r.send(protocol.ErrorResponse{Message: protocol.NewError(err).Message, Code: &text})
}

// chunkWriter sends what is written in chunks. What is written is not sent before the next write or finish, so that the last chunk says
// that it is.
type chunkWriter struct {
	out    *responder
	buffer []byte
}

// Write implements io.Writer.
func (w *chunkWriter) Write(data []byte) (int, error) {
	written := 0
	for len(data) > 0 {
		if len(w.buffer) == protocol.FileChunk {
			w.out.send(protocol.DataChunkResponse{Data: w.buffer})
			w.buffer = w.buffer[:0]
		}
		part := data[:min(len(data), protocol.FileChunk-len(w.buffer))]
		w.buffer = append(w.buffer, part...)
		data = data[len(part):]
		written += len(part)
	}
	return written, w.out.err
}

func (w *chunkWriter) finish() error {
	w.out.send(protocol.DataChunkResponse{Data: w.buffer, Done: true})
	return w.out.err
}
