package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// The protocols of CRI's streaming server over SPDY, and the header that tells a connection's streams apart.
const (
	commandProtocol = "v4.channel.k8s.io"
	forwardProtocol = "portforward.k8s.io"
	streamType      = "streamType"
)

// Streams are the standard streams of a process, as a client has them that runs or joins it. Both outputs are discarded if they are nil.
type Streams struct {
	Stdin          io.Reader // nil: none
	Stdout, Stderr io.Writer
	TTY            bool // the process has a terminal: no Stderr
}

// Exec runs a command in a container and returns its exit code. It ends, like the streams, with the process or with ctx.
func (d *Daemon) Exec(ctx context.Context, container string, streams Streams, command ...string) (int, error) {
	answer, err := d.Pods.Exec(ctx, &runtime.ExecRequest{
		ContainerId: container, Cmd: command, Tty: streams.TTY, Stdin: streams.Stdin != nil, Stdout: true, Stderr: !streams.TTY,
	})
	if err != nil {
		return 0, fmt.Errorf("exec in %s: %w", container, err)
	}
	return d.remoteCommand(ctx, answer.Url, streams)
}

// Attach joins the first process of a container, until that ends or ctx does: then the process lives on.
func (d *Daemon) Attach(ctx context.Context, container string, streams Streams) error {
	answer, err := d.Pods.Attach(ctx, &runtime.AttachRequest{
		ContainerId: container, Tty: streams.TTY, Stdin: streams.Stdin != nil, Stdout: true, Stderr: !streams.TTY,
	})
	if err != nil {
		return fmt.Errorf("attach to %s: %w", container, err)
	}
	_, err = d.remoteCommand(ctx, answer.Url, streams)
	return err
}

// remoteCommand connects the standard streams with a URL of the streaming server.
func (d *Daemon) remoteCommand(ctx context.Context, url string, streams Streams) (int, error) {
	conn, err := d.dialStream(ctx, url, commandProtocol)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	open := func(kind string) (httpstream.Stream, error) {
		return conn.CreateStream(http.Header{streamType: {kind}})
	}
	failure, err := open("error")
	if err != nil {
		return 0, err
	}
	if streams.Stdin != nil {
		stdin, err := open("stdin")
		if err != nil {
			return 0, err
		}
		go func() { // until there is no more input, or nobody to read it
			_, _ = io.Copy(stdin, streams.Stdin)
			stdin.Close()
		}()
	}
	if streams.TTY {
		if _, err := open("resize"); err != nil { // the server waits for it
			return 0, err
		}
	}
	var outputs sync.WaitGroup
	for _, output := range []struct {
		kind string
		to   io.Writer
		want bool
	}{{"stdout", streams.Stdout, true}, {"stderr", streams.Stderr, !streams.TTY}} {
		if !output.want {
			continue
		}
		from, err := open(output.kind)
		if err != nil {
			return 0, err
		}
		if output.to == nil {
			output.to = io.Discard
		}
		outputs.Go(func() { _, _ = io.Copy(output.to, from) }) // what breaks it breaks the stream of the result, too
	}
	text, err := io.ReadAll(failure)
	if err != nil {
		return 0, err
	}
	outputs.Wait()
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	return exitCode(text)
}

// exitCode reads the result of a remote command: nothing or an object that says how it ended.
func exitCode(text []byte) (int, error) {
	var result struct {
		Status, Message, Reason string
		Details                 struct {
			Causes []struct{ Reason, Message string }
		}
	}
	if len(text) == 0 {
		return 0, errors.New("the streaming server ended the command without a result")
	}
	if err := json.Unmarshal(text, &result); err != nil {
		return 0, fmt.Errorf("result %q of a command: %w", text, err)
	}
	if result.Status == "Success" {
		return 0, nil
	}
	for _, cause := range result.Details.Causes {
		if cause.Reason == "ExitCode" {
			return strconv.Atoi(cause.Message)
		}
	}
	return 0, errors.New(result.Message)
}

// Forward is a port-forward to a pod: each Ask is a connection to the same port of its localhost.
type Forward struct {
	conn httpstream.Connection
	port int32
	next int // request id
}

// Forward begins a port-forward to a port of the pod. The caller closes it.
func (p *Pod) Forward(ctx context.Context, port int32) (*Forward, error) {
	answer, err := p.d.Pods.PortForward(ctx, &runtime.PortForwardRequest{PodSandboxId: p.ID, Port: []int32{port}})
	if err != nil {
		return nil, fmt.Errorf("port-forward: %w", err)
	}
	conn, err := p.d.dialStream(ctx, answer.Url, forwardProtocol)
	if err != nil {
		return nil, err
	}
	return &Forward{conn: conn, port: port}, nil
}

// Close ends the port-forward and all its connections.
func (f *Forward) Close() error { return f.conn.Close() }

// Ask sends what is to be sent over one connection and returns all that comes back until its end.
func (f *Forward) Ask(question string) (string, error) {
	headers := http.Header{"port": {strconv.Itoa(int(f.port))}, "requestID": {strconv.Itoa(f.next)}}
	f.next++
	open := func(kind string) (httpstream.Stream, error) {
		headers := headers.Clone()
		headers.Set(streamType, kind)
		return f.conn.CreateStream(headers)
	}
	failure, err := open("error")
	if err != nil {
		return "", err
	}
	failure.Close() // nothing is sent on it
	data, err := open("data")
	if err != nil {
		return "", err
	}
	_, writeErr := io.WriteString(data, question)
	var answer bytes.Buffer
	_, readErr := io.Copy(&answer, data)
	data.Close()
	text, err := io.ReadAll(failure)
	if len(text) > 0 {
		err = errors.New(string(text))
	}
	return answer.String(), errors.Join(writeErr, readErr, err)
}

// dialStream opens a connection of many streams to a URL of the streaming server, which listens in the run's network namespace.
func (d *Daemon) dialStream(ctx context.Context, url, protocol string) (httpstream.Connection, error) {
	transport := &http.Transport{}
	transport.DialContext = func(ctx context.Context, _, address string) (conn net.Conn, err error) { return d.Dial(ctx, address) }
	upgrade, err := spdy.NewRoundTripperWithConfig(spdy.RoundTripperConfig{UpgradeTransport: transport})
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set(httpstream.HeaderProtocolVersion, protocol)
	response, err := upgrade.RoundTrip(request)
	if err != nil {
		return nil, fmt.Errorf("connect to the streaming server: %w", err)
	}
	return upgrade.NewConnection(response)
}
