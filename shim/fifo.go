package shim

import (
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// openInput opens a stdin for reading. Of a FIFO the read end is opened first and then the write end that keeps it: opened without
// blocking, a read end never waits and a write end needs only that there is one.
func openInput(name string) (*input, error) {
	path, err := inputPath(name)
	if err != nil {
		return nil, err
	}
	info, err := exists(path)
	if err != nil {
		return nil, err
	}
	if info.Mode()&os.ModeNamedPipe == 0 {
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		return &input{File: file}, nil
	}
	reader, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	keeper, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		reader.Close()
		return nil, fmt.Errorf("keep %q open: %w", path, err)
	}
	return &input{File: reader, keeper: keeper}, nil
}

// openFIFOOutput opens a FIFO for writing; its keeper comes first, as a write end needs a read end to open without blocking.
// A path that is something else is appended to.
func openFIFOOutput(path string) (*output, error) {
	info, err := exists(path)
	if err != nil {
		return nil, err
	}
	if info.Mode()&os.ModeNamedPipe == 0 {
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return nil, err
		}
		return newOutput(file, nil), nil
	}
	keeper, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("keep %q open: %w", path, err)
	}
	writer, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		keeper.Close()
		return nil, err
	}
	return newOutput(writer, keeper), nil
}

// inputPath is the path of a stdin, which is a path or a fifo:// URI.
func inputPath(name string) (string, error) {
	location, err := parseOutput(name)
	if err != nil {
		return "", err
	}
	if location.scheme != "fifo" {
		return "", fmt.Errorf("%q: input comes from a FIFO only: %w", name, errdefs.ErrInvalidArgument)
	}
	return location.path, nil
}
