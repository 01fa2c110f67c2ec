package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// pipeSize is how much goes through a pipe, in bytes.
const pipeSize = 1 << 30

// sidecar measures what goes through a command that the exec sidecar runs, beside the same command run directly.
func (b *bench) sidecar() (_ []row, err error) {
	socket := filepath.Join(b.daemon.Dir, "sidecar")
	limpet := b.daemon.Build.Path("bin/limpet")
	ctx, stop := context.WithCancel(b.ctx)
	server := exec.CommandContext(ctx, limpet, "sidecar", "start", socket)
	server.Cancel = func() error { return server.Process.Signal(os.Interrupt) }
	log, err := server.StderrPipe()
	if err != nil {
		stop()
		return nil, err
	}
	if err := server.Start(); err != nil {
		stop()
		return nil, err
	}
	defer func() {
		stop()
		_ = server.Wait() // it was told to end
	}()
	if _, err := bufio.NewReader(log).ReadString('\n'); err != nil { // it says that it listens
		return nil, errors.Join(err, errors.New("the exec sidecar does not start"))
	}
	const what = "1 GiB through a command of the exec sidecar"
	through := func(command ...string) func() (float64, error) {
		return func() (float64, error) { return b.throughPipe(command...) }
	}
	ours, plain, err := b.alternate(what, b.runs, through(limpet, "sidecar", "exec", "--connect", socket, "cat"), through("cat"))
	return []row{{
		Name: what, Unit: "MiB/s", Limpet: ours, Reference: plain, ReferenceName: "the command alone", Aim: "1",
	}}, err
}

// throughPipe passes bytes through a command from a pipe to a pipe, and returns how many MiB went through in a second.
func (b *bench) throughPipe(command ...string) (float64, error) {
	source := exec.CommandContext(b.ctx, "head", "-c", strconv.Itoa(pipeSize), "/dev/zero")
	middle := exec.CommandContext(b.ctx, command[0], command[1:]...)
	sink := exec.CommandContext(b.ctx, "wc", "-c")
	var err error
	if middle.Stdin, err = source.StdoutPipe(); err != nil {
		return 0, err
	}
	if sink.Stdin, err = middle.StdoutPipe(); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := errors.Join(source.Start(), middle.Start()); err != nil {
		return 0, err
	}
	count, err := sink.Output()
	took := time.Since(began)
	if err := errors.Join(err, middle.Wait(), source.Wait()); err != nil {
		return 0, err
	}
	if string(count) != strconv.Itoa(pipeSize)+"\n" {
		return 0, fmt.Errorf("%q bytes came through %q", count, command)
	}
	return pipeSize / (1 << 20) / took.Seconds(), nil
}
