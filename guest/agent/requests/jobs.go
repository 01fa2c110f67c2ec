package requests

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/agent/container"
	"github.com/limpet-run/limpet/guest/agent/streams"
	"github.com/limpet-run/limpet/guest/protocol"
)

const (
	// lateSilence is how long nothing must come from a command that has ended before its output is taken for complete, if something that it
	// left behind holds the pipe open.
	lateSilence = time.Second
	// lateOutput is how much, in bytes, may still come after a command's end: what its pipe holds, and the agent's buffer.
	lateOutput = 4 << 20
	// outputChunk is the most bytes of output in one response: what comes in one piece from package container.
	outputChunk = protocol.MaxWrite
)

// Jobs are the commands that run, for the package that runs them: it claims their streams here and reports what becomes of them.
type Jobs struct {
	mu    sync.Mutex
	last  uint64
	jobs  map[uint64]*job
	pipes map[protocol.Token]net.Conn
}

// NewJobs makes an empty set.
func NewJobs() *Jobs {
	return &Jobs{jobs: map[uint64]*job{}, pipes: map[protocol.Token]net.Conn{}}
}

// job is one command.
type job struct {
	jobs       *Jobs
	containers *container.Set
	id         uint64
	name       string // the container's id
	streams    protocol.Streams
	stdin      net.Conn // nil: none, as the others
	stdout     net.Conn
	stderr     net.Conn
	ended      chan struct{} // closed when exit is set
	exit       protocol.Exit
}

// streamsOf says which streams a command gets.
type streamsOf struct{ stdin, stdout, stderr bool }

// namePrefix begins the id of each command's container, and of none that the host names: containerd refuses it.
const namePrefix = "_"

// add makes a job known, by a name of that kind.
func (j *Jobs) add(containers *container.Set, kind string, wanted streamsOf) *job {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.last++
	k := &job{jobs: j, containers: containers, id: j.last, name: fmt.Sprintf("%s%s-%d", namePrefix, kind, j.last), ended: make(chan struct{})}
	pipe := func(wanted bool) (*protocol.Token, net.Conn) {
		if !wanted {
			return nil, nil
		}
		ours, theirs := net.Pipe()
		token := protocol.NewToken()
		j.pipes[token] = theirs
		return &token, ours
	}
	k.streams.Stdin, k.stdin = pipe(wanted.stdin)
	k.streams.Stdout, k.stdout = pipe(wanted.stdout)
	k.streams.Stderr, k.stderr = pipe(wanted.stderr)
	j.jobs[k.id] = k
	return k
}

// drop forgets a job.
func (j *Jobs) drop(k *job) {
	for _, conn := range []net.Conn{k.stdin, k.stdout, k.stderr} {
		if conn != nil {
			conn.Close()
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.jobs, k.id)
	for _, token := range []*protocol.Token{k.streams.Stdin, k.streams.Stdout, k.streams.Stderr} {
		if token != nil {
			delete(j.pipes, *token)
		}
	}
}

func (j *Jobs) find(id uint64) *job {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.jobs[id]
}

// Output implements container.Streams.
func (j *Jobs) Output(_ context.Context, token protocol.Token, _ bool) (streams.Output, error) {
	pipe, err := j.claim(token)
	return streams.Plain{Conn: pipe}, err
}

// Input implements container.Streams.
func (j *Jobs) Input(_ context.Context, token protocol.Token, _ bool) (io.ReadCloser, error) {
	return j.claim(token)
}

func (j *Jobs) claim(token protocol.Token) (net.Conn, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	pipe := j.pipes[token]
	delete(j.pipes, token)
	if pipe == nil {
		return nil, fmt.Errorf("claim a stream: the command is forgotten: %w", errdefs.ErrNotFound)
	}
	return pipe, nil
}

// StreamEnd implements container.Reporter: everything was read by then.
func (j *Jobs) StreamEnd(requestID uint64, stream string, _ uint64) {
	if k := j.find(requestID); k != nil {
		if stream == "stdout" {
			k.stdout.Close()
		} else {
			k.stderr.Close()
		}
	}
}

// OOM implements container.Reporter. The exit says it too.
func (j *Jobs) OOM(string) {}

// Exit implements container.Reporter.
func (j *Jobs) Exit(exit protocol.Exit) {
	k := j.find(exit.RequestID)
	if k == nil {
		return
	}
	k.exit = exit
	close(k.ended)
	for _, conn := range []net.Conn{k.stdout, k.stderr} {
		if conn != nil {
			_ = conn.SetReadDeadline(time.Now().Add(lateSilence)) // an in-memory pipe takes every deadline
		}
	}
}

// read gives take what the command writes until there is no more of it, or take fails.
func (k *job) read(output net.Conn, take func([]byte) error) error {
	defer output.Close()
	buffer := make([]byte, outputChunk)
	for late := 0; late < lateOutput; {
		n, err := output.Read(buffer)
		if n > 0 {
			if err := take(buffer[:n]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.ErrClosedPipe), errors.Is(err, io.EOF), errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case err != nil:
			return err
		}
		select {
		case <-k.ended:
			late += n
			_ = output.SetReadDeadline(time.Now().Add(lateSilence)) // as above
		default:
		}
	}
	return nil
}

// write gives the command input; no bytes: its end. Input that the command does not take any more is dropped, as a pipe's is.
func (k *job) write(input []byte) error {
	if len(input) > 0 {
		_, _ = k.stdin.Write(input) // fails only when nobody reads any more
		return nil
	}
	k.stdin.Close()
	return k.containers.CloseStdin(protocol.CloseStdin{RequestID: k.id})
}

// kill ends the command with everything that it has started.
func (k *job) kill() error {
	return k.containers.Signal(protocol.Signal{RequestID: k.id, Signal: int32(unix.SIGKILL), All: true})
}

// remove forgets a command that has ended.
func (k *job) remove() error {
	k.jobs.drop(k)
	return k.containers.Remove(protocol.Remove{ContainerID: k.name})
}
