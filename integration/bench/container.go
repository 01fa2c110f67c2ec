package main

import (
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"github.com/limpet-run/limpet/integration/harness"
)

const (
	// streamSize is how many bytes go through a standard stream: seconds of it even at the best rates.
	streamSize = 256 << 20
	mebibyte   = 1 << 20
)

// startRows measures whole lives of containers, and how soon they say something.
func (b *bench) startRows() ([]row, error) {
	booting, err := b.bootingConfig()
	if err != nil {
		return nil, err
	}
	var rows []row
	for _, start := range []struct {
		what, aim string
		runs      int
		measure   func(runtime string) (float64, error)
	}{
		{"ctr run --rm of true", "<= 4.0", b.starts, func(runtime string) (float64, error) { return b.life(runtime, "") }},
		{"create to first output", "<= 4.0", b.starts, b.firstOutput},
		{"ctr run --rm of true, without templates", "", b.runs, func(runtime string) (float64, error) { return b.life(runtime, booting) }},
		{"ctr run --rm with 4 CPUs, 2 GiB", "", b.runs, b.largeLife},
	} {
		row, err := b.runtimes(start.what, "ms", start.aim, start.runs, start.measure)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// life is the time of ctr run --rm. config is limpet's configuration; empty: the run's own.
func (b *bench) life(runtime, config string) (float64, error) {
	spec := b.spec(runtime, []string{"--rm"}, "true")
	spec.Config = config
	began := time.Now()
	err := b.daemon.Ctr(b.ctx, b.daemon.Args("run", spec)...).Err()
	return milliseconds(began), err
}

// largeLife is the time of a container that asks for four processors and two gigabytes, and looks whether a machine of its own has them.
func (b *bench) largeLife(runtime string) (float64, error) {
	const memory = 2 << 30
	began := time.Now()
	flags := []string{"--rm", "--cpus", "4", "--memory-limit", fmt.Sprint(memory)}
	result := b.daemon.Ctr(b.ctx, b.daemon.Args("run", b.spec(runtime, flags, "sh", "-c", "nproc; grep MemTotal /proc/meminfo"))...)
	took := milliseconds(began)
	var processors, kibibytes int
	_, err := fmt.Sscanf(result.Stdout, "%d\nMemTotal: %d kB", &processors, &kibibytes)
	if err := errors.Join(result.Err(), err); err != nil {
		return 0, err
	}
	if runtime == harness.Limpet && (processors < 4 || kibibytes < memory>>10) {
		return 0, fmt.Errorf("a container that asks for 4 processors and %d bytes has %d and %d KiB", memory, processors, kibibytes)
	}
	return took, nil
}

// firstOutput is the time from the start of ctr to the first byte that the container writes.
func (b *bench) firstOutput(runtime string) (float64, error) {
	cmd := b.daemon.CtrCommand(b.ctx, b.daemon.Args("run", b.spec(runtime, []string{"--rm"}, "echo", "x"))...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	_, readErr := io.ReadFull(stdout, make([]byte, 1))
	took := milliseconds(began)
	_, restErr := io.Copy(io.Discard, stdout)
	return took, errors.Join(readErr, restErr, cmd.Wait())
}

// pair is a container of each runtime that does nothing.
type pair map[string]string

func (b *bench) pair() (pair, error) {
	pair := pair{}
	for _, runtime := range []string{harness.Limpet, harness.Runc} {
		spec := b.spec(runtime, []string{"--detach", "--null-io"}, "sleep", "1000000")
		if err := b.daemon.Ctr(b.ctx, b.daemon.Args("run", spec)...).Err(); err != nil {
			return nil, err
		}
		pair[runtime] = spec.ID
	}
	return pair, nil
}

func (b *bench) remove(pair pair) error {
	var errs []error
	for _, id := range pair {
		errs = append(errs, b.daemon.Remove(b.ctx, id))
	}
	return errors.Join(errs...)
}

// exec prepares a command in a container, which is the last of ctr's arguments.
func (b *bench) exec(ctr []string, command ...string) *exec.Cmd {
	b.count++
	args := append([]string{"task", "exec", "--exec-id", fmt.Sprintf("exec-%d", b.count)}, ctr...)
	return b.daemon.CtrCommand(b.ctx, append(args, command...)...)
}

// execRow measures an exec by ctr.
func (b *bench) execRow() (_ []row, err error) {
	pair, err := b.pair()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.remove(pair)) }()
	exec, err := b.runtimes("ctr task exec of true", "ms", "<= 1.0", b.starts, func(runtime string) (float64, error) {
		began := time.Now()
		err := harness.Run(b.exec([]string{pair[runtime]}, "true")).Err()
		return milliseconds(began), err
	})
	return []row{exec}, err
}

// streams measures standard output and standard input of a process.
func (b *bench) streams() (_ []row, err error) {
	pair, err := b.pair()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.remove(pair)) }()
	stdout, err := b.runtimes("256 MiB of stdout", "MiB/s", "", b.runs, func(runtime string) (float64, error) {
		return b.stdoutRate(pair[runtime])
	})
	if err != nil {
		return nil, err
	}
	stdin, err := b.runtimes("256 MiB of stdin", "MiB/s", "", b.runs, func(runtime string) (float64, error) {
		return b.stdinRate(pair[runtime])
	})
	return []row{stdout, stdin}, err
}

// zeroBytes is the command that writes streamSize bytes.
var zeroBytes = []string{"dd", "if=/dev/zero", "bs=1M", fmt.Sprintf("count=%d", streamSize/mebibyte), "status=none"}

// stdoutRate is the rate from the first byte of a process's output to the last one, as ctr passes it on.
func (b *bench) stdoutRate(id string) (float64, error) {
	cmd := b.exec([]string{id}, zeroBytes...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	rate, readErr := receive(stdout)
	return rate, errors.Join(readErr, cmd.Wait())
}

// receive reads streamSize bytes and returns the MiB per second from the first byte on.
func receive(r io.Reader) (float64, error) {
	if _, err := io.ReadFull(r, make([]byte, 1)); err != nil {
		return 0, err
	}
	began := time.Now()
	buffer := make([]byte, mebibyte) // in small pieces the reader would be a part of what is measured
	for n := 1; n < streamSize; {
		read, err := r.Read(buffer[:min(len(buffer), streamSize-n)])
		if n += read; err != nil {
			return 0, fmt.Errorf("after %d bytes: %w", n, err)
		}
	}
	return streamSize / mebibyte / time.Since(began).Seconds(), nil
}

// stdinRate is the rate from the first byte of a process's input to the end of the process, which has then read them all.
func (b *bench) stdinRate(id string) (float64, error) {
	cmd := b.exec([]string{id}, "sh", "-c", "echo ready; exec dd of=/dev/null bs=1M")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return 0, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	_, err = io.ReadFull(stdout, make([]byte, len("ready\n")))
	began := time.Now()
	if err == nil {
		_, err = io.CopyN(stdin, zeros{}, streamSize)
	}
	err = errors.Join(err, stdin.Close(), cmd.Wait())
	took := time.Since(began)
	if err != nil {
		return 0, fmt.Errorf("%w: %s", err, stderr.String())
	}
	return streamSize / mebibyte / took.Seconds(), nil
}

// zeros is an endless input.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
