package client

import (
	"context"
	"fmt"
	"io"
	"math"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
)

// Upload writes a file of size bytes, at most protocol.MaxFile, in the guest. It appears at path whole, with its mode, or not at all. A
// content that is shorter or longer than size is an error; the connection is then closed.
func (r *Requests) Upload(ctx context.Context, path string, mode uint32, size uint64, content io.Reader) error {
	if err := r.accepted(ctx, protocol.FileWriteBeginRequest{Path: path, Mode: &mode, TotalSize: size}); err != nil {
		return err
	}
	chunk := make([]byte, min(size, protocol.FileChunk))
	for sent := uint64(0); ; {
		n, err := io.ReadFull(content, chunk[:min(uint64(len(chunk)), size-sent)])
		if err != nil {
			_ = r.Close()
			return fmt.Errorf("upload %s: %d of %d bytes: %w", path, sent+uint64(n), size, err)
		}
		sent += uint64(n)
		done := sent == size
		if done {
			if extra, _ := content.Read(make([]byte, 1)); extra > 0 {
				_ = r.Close()
				return fmt.Errorf("upload %s: there is more than %d bytes: %w", path, size, errdefs.ErrInvalidArgument)
			}
		}
		if err := r.accepted(ctx, protocol.FileWriteChunkRequest{Data: chunk[:n], Done: done}); err != nil {
			return err
		}
		if done {
			return nil
		}
	}
}

// accepted sends a request that has nothing to tell but that it was done.
func (r *Requests) accepted(ctx context.Context, request protocol.AgentRequest) error {
	answer, err := r.Do(ctx, request, nil)
	if err != nil {
		return err
	}
	if _, ok := answer.(protocol.OKResponse); !ok {
		return unexpectedAnswer(answer)
	}
	return nil
}

// Download writes a file of the guest to a writer and returns its length, at most protocol.MaxFile. After an error of the writer the
// connection is closed.
func (r *Requests) Download(ctx context.Context, path string, to io.Writer) (uint64, error) {
	return r.receiveData(ctx, protocol.FileReadRequest{Path: path}, protocol.MaxFile, to)
}

// ExportLayer writes a layer of an image in the guest, a tar archive, to a writer and returns its length.
func (r *Requests) ExportLayer(ctx context.Context, digest string, index uint64, to io.Writer) (uint64, error) {
	return r.receiveData(ctx, protocol.ExportLayerRequest{ImageDigest: digest, LayerIndex: index}, math.MaxUint64, to)
}

// receiveData sends a request that is answered by chunks of data, of at most limit bytes together.
func (r *Requests) receiveData(ctx context.Context, request protocol.AgentRequest, limit uint64, to io.Writer) (uint64, error) {
	answer, err := r.Do(ctx, request, nil)
	for received := uint64(0); ; answer, err = r.Receive(ctx) {
		if err != nil {
			return received, err
		}
		chunk, ok := answer.(protocol.DataChunkResponse)
		if !ok {
			_ = r.Close()
			return received, unexpectedAnswer(answer)
		}
		if uint64(len(chunk.Data)) > limit-received {
			_ = r.Close()
			return received, fmt.Errorf("the agent sends more than %d bytes: %w", limit, errdefs.ErrResourceExhausted)
		}
		n, err := to.Write(chunk.Data)
		received += uint64(n)
		if err != nil {
			_ = r.Close()
			return received, err
		}
		if chunk.Done {
			return received, nil
		}
	}
}
