package harness

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"sync"
	"syscall"

	"github.com/containerd/console"
)

// Terminal is a pseudo-terminal with a command on it, as a person's terminal emulator has one.
type Terminal struct {
	master console.Console
	cmd    *exec.Cmd

	mu      sync.Mutex
	output  []byte
	read    int           // what Expect has gone past
	ended   bool          // no more output comes
	changed chan struct{} // closed and replaced at each change of the above
}

// StartTerminal starts cmd as the leader of a new session whose terminal has that size. The caller closes the terminal.
func StartTerminal(cmd *exec.Cmd, columns, rows uint16) (*Terminal, error) {
	master, slavePath, err := console.NewPty()
	if err != nil {
		return nil, err
	}
	t := &Terminal{master: master, cmd: cmd, changed: make(chan struct{})}
	if err := t.start(slavePath, columns, rows); err != nil {
		master.Close()
		return nil, err
	}
	go t.receive()
	return t, nil
}

func (t *Terminal) start(slavePath string, columns, rows uint16) error {
	if err := t.Resize(columns, rows); err != nil {
		return err
	}
	slave, err := os.OpenFile(slavePath, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer slave.Close()
	t.cmd.Stdin, t.cmd.Stdout, t.cmd.Stderr = slave, slave, slave
	t.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	return t.cmd.Start()
}

func (t *Terminal) receive() {
	buffer := make([]byte, 4096)
	for {
		n, err := t.master.Read(buffer)
		t.mu.Lock()
		t.output = append(t.output, buffer[:n]...)
		t.ended = err != nil // EIO once the command and all it started have closed the terminal
		close(t.changed)
		t.changed = make(chan struct{})
		t.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// Resize changes the size of the window; the kernel tells the command with SIGWINCH.
func (t *Terminal) Resize(columns, rows uint16) error {
	return t.master.Resize(console.WinSize{Width: columns, Height: rows})
}

// Type writes as a keyboard would.
func (t *Terminal) Type(text string) error {
	_, err := t.master.Write([]byte(text))
	return err
}

// Expect waits for output that matches the pattern, after what the last Expect matched, and returns the match's groups.
func (t *Terminal) Expect(ctx context.Context, pattern string) ([]string, error) {
	expression, err := regexp.Compile(pattern)
	if err != nil {
		return nil, err
	}
	for {
		t.mu.Lock()
		rest := t.output[t.read:]
		match := expression.FindSubmatchIndex(rest)
		ended, changed := t.ended, t.changed
		var groups []string
		if match != nil {
			for i := 0; i < len(match); i += 2 {
				groups = append(groups, string(rest[max(0, match[i]):max(0, match[i+1])]))
			}
			t.read += match[1]
		}
		t.mu.Unlock()
		if match != nil {
			return groups, nil
		}
		if ended {
			return nil, fmt.Errorf("the terminal ended before it showed %q; it showed %q", pattern, t.Output())
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: the terminal did not show %q; it shows %q", ctx.Err(), pattern, t.Output())
		}
	}
}

// Output returns all output so far.
func (t *Terminal) Output() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.output)
}

// Wait waits until the command has ended and returns its exit code, -1 if it was killed.
func (t *Terminal) Wait() int {
	_ = t.cmd.Wait() // the code says all
	return t.cmd.ProcessState.ExitCode()
}

// Close closes the terminal, which hangs up on whatever still uses it.
func (t *Terminal) Close() error { return t.master.Close() }
