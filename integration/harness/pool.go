package harness

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// Pool is a `limpet pool` that runs, with the configuration of the daemon's sandboxes.
type Pool struct {
	cmd   *exec.Cmd
	lines chan string // of its log
}

// StartPool starts a pool that keeps so many spares. Each line of its log is given to heard. The caller ends it.
func (d *Daemon) StartPool(size int, heard func(line string)) (*Pool, error) {
	cmd := d.Command(context.Background(), d.Build.Path("bin/limpet"), "pool", "--config", d.ConfigPath(), "--size", fmt.Sprint(size))
	cmd.Env = append(os.Environ(), "TMPDIR="+d.Dir)
	log, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &Pool{cmd, make(chan string, 1000)}
	go func() {
		defer close(p.lines)
		for lines := bufio.NewScanner(log); lines.Scan(); {
			heard(lines.Text())
			p.lines <- lines.Text()
		}
	}()
	return p, nil
}

// AwaitSpare waits until the pool says of a new spare that so many wait now.
func (p *Pool) AwaitSpare(ctx context.Context, spares int) error {
	var failed []error
	for {
		select {
		case line, ok := <-p.lines:
			switch {
			case !ok:
				return errors.Join(append(failed, errors.New("the pool has ended"))...)
			case strings.Contains(line, "a spare waits") && strings.HasSuffix(line, fmt.Sprint("spares=", spares)):
				return errors.Join(failed...)
			case strings.Contains(line, "level=ERROR"):
				failed = append(failed, errors.New(line))
			}
		case <-ctx.Done():
			return errors.Join(append(failed, fmt.Errorf("the pool does not fill up: %w", ctx.Err()))...)
		}
	}
}

// Kill kills the service, and leaves its spares to themselves. End follows.
func (p *Pool) Kill() error { return p.cmd.Process.Kill() }

// End ends the service, if it has not ended, and waits for it and its spares.
func (p *Pool) End() {
	_ = p.cmd.Process.Signal(unix.SIGTERM) // it may have ended
	for range p.lines {                    // whatever it says
	}
	_ = p.cmd.Wait() // what it ends with does not matter
}

// TakenServers counts the servers that a pool has given to the daemon's sandboxes so far.
func (d *Daemon) TakenServers() int { return strings.Count(d.Log(), "server taken from the pool") }
