package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/runtime"
)

// stdio names the standard streams of a process as containerd does: each a path or a URI, empty for none.
// containerd opens the same names again after a restart, so they are kept as they came.
type stdio struct {
	Stdin, Stdout, Stderr string
	Terminal              bool
}

// target identifies the container whose streams are opened, for a logging binary.
type target struct{ namespace, containerID string }

// streams are the opened standard streams of one process.
type streams struct {
	input   *input    // nil: none
	outputs []*output // at most stdout and stderr
	logger  *logger   // nil: none
	io      runtime.IO
}

// openStreams opens what names says. Nothing in it waits for the other side, so that a client may come before or after.
// The result's IO belongs to the runtime once it was passed on; close may be called nevertheless.
func openStreams(names stdio, target target) (*streams, error) {
	opened := &streams{io: runtime.IO{Terminal: names.Terminal}}
	if err := opened.open(names, target); err != nil {
		opened.close()
		return nil, err
	}
	return opened, nil
}

func (s *streams) open(names stdio, target target) error {
	if names.Stdin != "" {
		input, err := openInput(names.Stdin)
		if err != nil {
			return fmt.Errorf("stdin: %w", err)
		}
		s.input, s.io.Stdin = input, input
	}
	if names.Terminal {
		names.Stderr = "" // a terminal has one output
	}
	stdout, err := parseOutput(names.Stdout)
	if err != nil {
		return fmt.Errorf("stdout: %w", err)
	}
	stderr, err := parseOutput(names.Stderr)
	if err != nil {
		return fmt.Errorf("stderr: %w", err)
	}
	if stdout.binary() {
		return s.openBinary(stdout, target, names.Stderr != "")
	}
	if stderr.binary() {
		return fmt.Errorf("stderr %q: a logging binary takes stdout too: name it there: %w", names.Stderr, errdefs.ErrInvalidArgument)
	}
	if err := s.openOutput(stdout, &s.io.Stdout); err != nil {
		return fmt.Errorf("stdout: %w", err)
	}
	if err := s.openOutput(stderr, &s.io.Stderr); err != nil {
		return fmt.Errorf("stderr: %w", err)
	}
	return nil
}

func (s *streams) openOutput(location location, stream *io.WriteCloser) error {
	if location.path == "" {
		return nil
	}
	output, err := location.open()
	if err != nil {
		return err
	}
	s.outputs = append(s.outputs, output)
	*stream = output
	return nil
}

func (s *streams) openBinary(location location, target target, stderr bool) error {
	logger, err := startLogger(location, target, loggerPatience)
	if err != nil {
		return fmt.Errorf("stdout: %w", err)
	}
	s.logger = logger
	s.outputs = append(s.outputs, logger.stdout)
	s.io.Stdout = logger.stdout
	if stderr {
		s.outputs = append(s.outputs, logger.stderr)
		s.io.Stderr = logger.stderr
		return nil
	}
	return logger.stderr.Close()
}

// closeInput lets the process see the end of its input once it has read what is queued. It may be called more than once.
func (s *streams) closeInput() {
	if s.input != nil {
		s.input.closeKeeper()
	}
}

// finish closes all streams and waits until the logging binary, if there is one, has written what it was given and is gone.
func (s *streams) finish(ctx context.Context) {
	s.close()
	if s.logger == nil {
		return
	}
	select {
	case <-s.logger.gone:
	case <-ctx.Done():
	}
}

// close closes all streams; who reads or writes one gets os.ErrClosed.
func (s *streams) close() {
	if s.input != nil {
		s.input.Close()
	}
	for _, output := range s.outputs {
		output.Close()
	}
}

// input is the stdin of a process. The embedded file is the read end.
type input struct {
	*os.File
	keeper *os.File // write end of the FIFO: as long as it is open, a client that goes away is not the end of input; nil for a file
}

func (i *input) closeKeeper() {
	if i.keeper != nil {
		i.keeper.Close() // closing twice is an error that changes nothing
	}
}

// Close ends reading. The keeper goes last, or a Read that is under way would take it for the end of input.
func (i *input) Close() error {
	defer i.closeKeeper()
	return i.File.Close()
}

// output is the stdout or stderr of a process. The embedded file is the write end; it is embedded so that a copy into it can use splice.
type output struct {
	*os.File
	keeper *os.File // read end of the FIFO: with it, a reader that goes away does not break the pipe; nil for others
	once   sync.Once
	closed chan struct{} // closed by Close
	err    error
}

func newOutput(file, keeper *os.File) *output {
	return &output{File: file, keeper: keeper, closed: make(chan struct{})}
}

// Close ends writing. What a reader has not read yet stays readable for it.
func (o *output) Close() error {
	o.once.Do(func() {
		o.err = o.File.Close()
		if o.keeper != nil {
			o.keeper.Close()
		}
		close(o.closed)
	})
	return o.err
}

// location is a parsed name of an output.
type location struct {
	scheme string // fifo, file, binary or binary-v2
	path   string // empty: no stream
	query  url.Values
}

func (l location) binary() bool { return l.scheme == "binary" || l.scheme == "binary-v2" }

// parseOutput understands the names of docs/runtime-v2.md: a path or fifo://, file://, binary:// and binary-v2://.
func parseOutput(name string) (location, error) {
	if name == "" {
		return location{}, nil
	}
	uri, err := url.Parse(name)
	if err != nil {
		return location{}, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	switch uri.Scheme {
	case "":
		return location{scheme: "fifo", path: name}, nil
	case "fifo", "file", "binary", "binary-v2":
		if !filepath.IsAbs(uri.Path) {
			return location{}, fmt.Errorf("%q has no absolute path: %w", name, errdefs.ErrInvalidArgument)
		}
		return location{scheme: uri.Scheme, path: uri.Path, query: uri.Query()}, nil
	}
	return location{}, fmt.Errorf("%q: scheme %q is not supported: use fifo, file or binary: %w", name, uri.Scheme, errdefs.ErrNotImplemented)
}

func (l location) open() (*output, error) {
	if l.scheme == "file" {
		if err := os.MkdirAll(filepath.Dir(l.path), 0o755); err != nil {
			return nil, err
		}
		file, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
		if err != nil {
			return nil, err
		}
		return newOutput(file, nil), nil
	}
	return openFIFOOutput(l.path)
}

// exists turns the absence of a named stream into an error that says what should have been there.
func exists(path string) (os.FileInfo, error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("FIFO %q does not exist: the client makes it before the call: %w", path, errdefs.ErrNotFound)
	}
	return info, err
}
