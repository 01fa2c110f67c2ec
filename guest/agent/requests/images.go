package requests

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/agent/reaper"
	"github.com/limpet-run/limpet/guest/protocol"
)

// Images serves the requests about images, storage and the network: what takes more program than the agent should be.
type Images interface {
	// Do carries out one request and hands over its answers, of which the last one ends it. If ctx ends it gives up and undoes what it did.
	// An error is one without an answer, or that of answer.
	Do(ctx context.Context, request protocol.Envelope[protocol.AgentRequest], answer func(protocol.AgentResponse) error) error
}

// imageCodes are the codes of what goes wrong with these requests, for errors that have none of their own.
var imageCodes = map[string]protocol.Code{
	"pull":            protocol.CodePullFailed,
	"query":           protocol.CodeQueryFailed,
	"list_images":     protocol.CodeListFailed,
	"garbage_collect": protocol.CodeGCFailed,
	"prepare_overlay": protocol.CodeOverlayFailed,
	"cleanup_overlay": protocol.CodeCleanupFailed,
	"format_storage":  protocol.CodeFormatFailed,
	"storage_status":  protocol.CodeStatusFailed,
	"export_layer":    protocol.CodeExportFailed,
	"network_test":    protocol.CodeInternal,
}

// images passes a request about images on.
func (c *conn) images(ctx context.Context, request protocol.AgentRequest) (protocol.AgentResponse, error) {
	if err := c.server.Tools(ctx); err != nil {
		return nil, failed(protocol.CodeMountFailed, err)
	}
	envelope := protocol.Envelope[protocol.AgentRequest]{TraceID: c.traceID, Body: request}
	var last protocol.AgentResponse
	err := c.server.Images.Do(ctx, envelope, func(answer protocol.AgentResponse) error {
		if final(answer) {
			last = answer
			return nil
		}
		return c.send(answer)
	})
	if err != nil {
		return nil, failed(imageCodes[protocol.AgentRequests.Name(request)], err)
	}
	return last, nil
}

// final tells whether an answer is the last one to a request.
func final(answer protocol.AgentResponse) bool {
	switch a := answer.(type) {
	case protocol.ProgressResponse:
		return false
	case protocol.DataChunkResponse:
		return a.Done
	}
	return true
}

// CancelTimeout is how long a program for images needs at most to undo what it did when it is told to give up: to remove what it has
// unpacked.
const CancelTimeout = 10 * time.Second

// ImageProgram is Images by a program that is started for each request: the request comes on its standard input, framed like on a
// connection, and the answers on its standard output; SIGTERM tells it to give up.
type ImageProgram struct {
	Path   string
	Reaper *reaper.Reaper
	Log    *os.File // where it logs to
	Logger *slog.Logger
	// CancelTimeout is how long it may take to give up before it is killed.
	CancelTimeout time.Duration
	// Certificates returns the path of a file with those who certify servers, for what fetches something. On error, or if it is nil, the
	// program trusts those that it has built in.
	Certificates func(ctx context.Context) (path string, err error)
}

// Do implements Images.
func (p *ImageProgram) Do(
	ctx context.Context, request protocol.Envelope[protocol.AgentRequest], answer func(protocol.AgentResponse) error,
) error {
	message, err := protocol.AgentRequests.EncodeEnvelope(request)
	if err != nil {
		return err
	}
	child, input, output, err := p.start(p.environment(ctx, request.Body))
	if err != nil {
		return err
	}
	defer output.Close()
	stop := context.AfterFunc(ctx, func() { p.cancel(child) })
	defer stop()
	go func() {
		defer input.Close()
		_ = protocol.WriteMessage(input, message) // a program that does not read does not answer either
	}()
	err = relay(output, answer)
	if err != nil {
		p.cancel(child)
	}
	<-child.Done()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("%w (it has ended with status %d)", err, child.Exit().Code())
	}
	return nil
}

// relay hands over a program's answers up to the last one.
func relay(output io.Reader, answer func(protocol.AgentResponse) error) error {
	for {
		message, err := protocol.ReadMessage(output)
		if err != nil {
			return fmt.Errorf("the program for images has not answered: %w", err)
		}
		next, err := protocol.AgentResponses.DecodeEnvelope(message)
		if err != nil {
			return fmt.Errorf("the program for images: %w", err)
		}
		if err := answer(next.Body); err != nil {
			return err
		}
		if final(next.Body) {
			return nil
		}
	}
}

// certificatesTimeout is how long the host may take to give its certificates: a quarter of a mebibyte.
const certificatesTimeout = 5 * time.Second

// environment is what the program is told for a request besides the agent's own environment.
func (p *ImageProgram) environment(ctx context.Context, request protocol.AgentRequest) []string {
	switch request.(type) {
	case protocol.PullRequest, protocol.NetworkTestRequest:
	default:
		return nil
	}
	if p.Certificates == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, certificatesTimeout)
	defer cancel()
	path, err := p.Certificates(ctx)
	if err != nil {
		p.Logger.InfoContext(ctx, "servers are trusted by the certificates that are built in, not by the host's", "error", err)
		return nil
	}
	return []string{"SSL_CERT_FILE=" + path} // see crypto/x509
}

// start starts the program.
func (p *ImageProgram) start(environment []string) (child *reaper.Child, input io.WriteCloser, output io.ReadCloser, err error) {
	command := exec.Command(p.Path)
	command.Env = append(os.Environ(), environment...)
	command.Stderr = p.Log
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, input, err := os.Pipe()
	if err != nil {
		return nil, nil, nil, err
	}
	defer in.Close()
	output, out, err := os.Pipe()
	if err != nil {
		input.Close()
		return nil, nil, nil, err
	}
	defer out.Close()
	command.Stdin, command.Stdout = in, out
	hold := p.Reaper.Hold()
	defer hold.Release()
	if err := command.Start(); err != nil {
		input.Close()
		output.Close()
		return nil, nil, nil, fmt.Errorf("start the program for images: %w", err)
	}
	child = hold.Claim(command.Process.Pid)
	_ = command.Process.Release() // it is the reaper's; nothing else is there to fail
	return child, input, output, nil
}

// cancel tells the program to give up, and ends it if it does not.
func (p *ImageProgram) cancel(child *reaper.Child) {
	if err := child.Signal(unix.SIGTERM); err != nil {
		p.Logger.Warn("cancel the program for images", "error", err)
	}
	go func() {
		timer := time.NewTimer(p.CancelTimeout)
		defer timer.Stop()
		select {
		case <-child.Done():
		case <-timer.C:
			p.Logger.Warn("the program for images does not give up: it is killed")
			_ = child.Signal(unix.SIGKILL)
		}
	}()
}
