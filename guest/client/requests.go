package client

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/go-json-experiment/json"

	"github.com/limpet-run/limpet/guest/protocol"
)

// Requests is a connection for machine requests, one at a time: with the door agent.sock of a sandbox, or with protocol.RequestPort.
// One goroutine may send while another one receives.
type Requests struct {
	conn    net.Conn
	reader  *bufio.Reader
	traceID *string
	sending sync.Mutex
}

// NewRequests makes one of a connection, which it owns. The trace id, if it is not empty, goes with every request.
func NewRequests(conn net.Conn, traceID string) *Requests {
	r := &Requests{conn: conn, reader: bufio.NewReaderSize(conn, protocol.MaxWrite)}
	if traceID != "" {
		r.traceID = &traceID
	}
	return r
}

// Close ends the connection, and with it the command that it runs and the upload that was begun.
func (r *Requests) Close() error { return r.conn.Close() }

// Send sends a request. If ctx ends meanwhile the connection is of no more use.
func (r *Requests) Send(ctx context.Context, request protocol.AgentRequest) error {
	message, err := protocol.AgentRequests.EncodeEnvelope(protocol.Envelope[protocol.AgentRequest]{TraceID: r.traceID, Body: request})
	if err != nil {
		return err
	}
	return r.SendRaw(ctx, message)
}

// SendRaw sends a request as JSON, whatever it is.
func (r *Requests) SendRaw(ctx context.Context, message []byte) error {
	defer r.until(ctx, r.conn.SetWriteDeadline)()
	r.sending.Lock()
	defer r.sending.Unlock()
	if err := protocol.WriteMessage(r.conn, message); err != nil {
		return fmt.Errorf("send machine request: %w", because(ctx, err))
	}
	return nil
}

// Receive waits for the next answer. An ErrorResponse becomes a *protocol.Error, after which the connection can be used; after any other
// error it cannot.
func (r *Requests) Receive(ctx context.Context) (protocol.AgentResponse, error) {
	message, err := r.ReceiveRaw(ctx)
	if err != nil {
		return nil, err
	}
	answer, err := protocol.AgentResponses.DecodeEnvelope(message)
	if err != nil {
		return nil, err
	}
	if failed, ok := answer.Body.(protocol.ErrorResponse); ok {
		e := &protocol.Error{Message: failed.Message, Code: protocol.CodeInternal}
		if failed.Code != nil {
			e.Code = protocol.Code(*failed.Code)
		}
		return nil, protocol.NewError(e) // which is not long
	}
	return answer.Body, nil
}

// ReceiveRaw waits for the next answer and returns its JSON.
func (r *Requests) ReceiveRaw(ctx context.Context) ([]byte, error) {
	defer r.until(ctx, r.conn.SetReadDeadline)()
	message, err := protocol.ReadMessage(r.reader)
	if err == io.EOF {
		err = fmt.Errorf("the agent has closed the connection: %w", errdefs.ErrUnavailable)
	}
	if err != nil {
		return nil, fmt.Errorf("receive the answer to a machine request: %w", because(ctx, err))
	}
	return message, nil
}

// until lets ctx end what waits for the connection; the deadline is not put back.
func (r *Requests) until(ctx context.Context, setDeadline func(time.Time) error) (done func()) {
	stop := context.AfterFunc(ctx, func() { _ = setDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}

// because is why something failed: ctx, if that has ended.
func because(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// Do sends a request that has one answer, and returns that. progress, which may be nil, is told of what comes before it.
func (r *Requests) Do(ctx context.Context, request protocol.AgentRequest, progress func(protocol.ProgressResponse),
) (protocol.AgentResponse, error) {
	if err := r.Send(ctx, request); err != nil {
		return nil, err
	}
	for {
		answer, err := r.Receive(ctx)
		if err != nil {
			return nil, err
		}
		step, ok := answer.(protocol.ProgressResponse)
		if !ok {
			return answer, nil
		}
		if progress != nil {
			progress(step)
		}
	}
}

// Get sends a request that is answered by data, and decodes that into a T: a protocol.ImageInfo, protocol.OverlayInfo and so on.
func Get[T any](ctx context.Context, r *Requests, request protocol.AgentRequest, progress func(protocol.ProgressResponse)) (T, error) {
	var value T
	answer, err := r.Do(ctx, request, progress)
	if err != nil {
		return value, err
	}
	ok, is := answer.(protocol.OKResponse)
	if !is {
		return value, unexpectedAnswer(answer)
	}
	if len(ok.Data) == 0 {
		return value, nil
	}
	if err := json.Unmarshal(ok.Data, &value); err != nil {
		return value, fmt.Errorf("data of the answer to %s: %w", protocol.AgentRequests.Name(request), err)
	}
	return value, nil
}

// Complete sends a vm_exec or run that is neither interactive nor has a terminal, and returns its result. One in the background has a
// result at once: its output is the process's id in the guest; that of a detached one the container's.
func (r *Requests) Complete(ctx context.Context, request protocol.AgentRequest) (protocol.CompletedResponse, error) {
	answer, err := r.Do(ctx, request, nil)
	if err != nil {
		return protocol.CompletedResponse{}, err
	}
	completed, ok := answer.(protocol.CompletedResponse)
	if !ok {
		return protocol.CompletedResponse{}, unexpectedAnswer(answer)
	}
	return completed, nil
}

func unexpectedAnswer(answer protocol.AgentResponse) error {
	return fmt.Errorf("unexpected answer %q of the agent: %w", protocol.AgentResponses.Name(answer), errdefs.ErrInternal)
}

// Interaction is what a person or program at a command sees and says.
type Interaction struct {
	Stdin          io.Reader            // nil: none
	Stdout, Stderr io.Writer            // Stderr is not used with a terminal
	Sizes          <-chan protocol.Size // of the terminal; nil: it keeps its first one
}

// Interact sends a vm_exec or run that is interactive or has a terminal, lets it run, and returns its exit code: 128+n if signal n ended
// it. The connection is closed in the end, and if ctx ends before, which kills the command. A reading of Stdin that goes on is left to its
// fate.
func (r *Requests) Interact(ctx context.Context, request protocol.AgentRequest, with Interaction) (int32, error) {
	answer, err := r.Do(ctx, request, nil)
	if err != nil {
		return 0, err
	}
	if _, ok := answer.(protocol.StartedResponse); !ok {
		return 0, unexpectedAnswer(answer)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer r.Close() // input on its way is not for whatever comes next
	if with.Stdin != nil {
		go r.sendInput(ctx, with.Stdin)
	} else if err := r.Send(ctx, protocol.StdinRequest{}); err != nil {
		return 0, err
	}
	go r.sendSizes(ctx, with.Sizes)
	for {
		answer, err := r.Receive(ctx)
		if err != nil {
			return 0, err
		}
		switch a := answer.(type) {
		case protocol.StdoutResponse:
			_, err = with.Stdout.Write(a.Data)
		case protocol.StderrResponse:
			_, err = with.Stderr.Write(a.Data)
		case protocol.ExitedResponse:
			return a.ExitCode, nil
		default:
			err = unexpectedAnswer(answer)
		}
		if err != nil {
			return 0, err
		}
	}
}

// sendInput sends what there is to read, and then its end.
func (r *Requests) sendInput(ctx context.Context, input io.Reader) {
	buffer := make([]byte, inputChunk)
	for {
		n, err := input.Read(buffer)
		if n > 0 && r.Send(ctx, protocol.StdinRequest{Data: buffer[:n]}) != nil {
			return // which the receiving finds too
		}
		if err != nil {
			_ = r.Send(ctx, protocol.StdinRequest{})
			return
		}
	}
}

// inputChunk is the most bytes of input in one request.
const inputChunk = 32 << 10

func (r *Requests) sendSizes(ctx context.Context, sizes <-chan protocol.Size) {
	for {
		select {
		case <-ctx.Done():
			return
		case size, ok := <-sizes:
			if !ok || r.Send(ctx, protocol.ResizeRequest(size)) != nil {
				return
			}
		}
	}
}
