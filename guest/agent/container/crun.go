package container

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	runc "github.com/containerd/go-runc"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/agent/reaper"
)

// crun starts processes with the OCI runtime of that name: the general way, which every specification can go.
type crun struct {
	path   string // of the program
	reaper *reaper.Reaper
}

func (c *crun) start(ctx context.Context, l launch) (launched, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if l.first != nil {
		if err := l.writeBundle(); err != nil {
			return launched{}, err
		}
	}
	work := filepath.Join(l.container.dir, strconv.FormatUint(l.requestID, 10))
	if err := os.Mkdir(work, 0o700); err != nil {
		return launched{}, fmt.Errorf("start %s: %w", l.process.Args[0], err)
	}
	defer os.RemoveAll(work)

	var console consoleSocket
	if l.process.Terminal {
		var err error
		if console, err = openConsoleSocket(); err != nil {
			return launched{}, fmt.Errorf("start %s: %w", l.process.Args[0], err)
		}
		defer console.Close()
	}
	hold := c.reaper.Hold()
	defer hold.Release()
	pidFile := filepath.Join(work, "pid")
	err := c.run(ctx, l, console, pidFile, filepath.Join(work, "log"))
	pid, pidErr := runc.ReadPidFile(pidFile)
	if err != nil {
		if pidErr == nil {
			_ = hold.Claim(pid).Signal(unix.SIGKILL)
		}
		return launched{}, err
	}
	if pidErr != nil {
		return launched{}, fmt.Errorf("start %s: crun left no pid: %w", l.process.Args[0], pidErr)
	}
	started := launched{child: hold.Claim(pid)}
	if l.process.Terminal {
		if started.console, err = console.receive(ctx); err != nil {
			_ = started.child.Signal(unix.SIGKILL)
			return launched{}, fmt.Errorf("start %s: %w", l.process.Args[0], err)
		}
	}
	return started, nil
}

// run runs crun, which ends as soon as the process is started.
func (c *crun) run(ctx context.Context, l launch, console consoleSocket, pidFile, log string) error {
	runtime := runc.Runc{Command: c.path, Root: l.container.stateDir(), Log: log, LogFormat: runc.JSON}
	var err error
	if l.first != nil {
		options := &runc.CreateOpts{IO: processIO{l.io}, PidFile: pidFile, Detach: true}
		if console.Socket != nil {
			options.ConsoleSocket = console
		}
		_, err = runtime.Run(ctx, l.container.id, l.container.dir, options)
	} else {
		process := *l.process
		if l.size != nil {
			process.ConsoleSize = boxOf(*l.size)
		}
		options := &runc.ExecOpts{IO: processIO{l.io}, PidFile: pidFile, Detach: true}
		if console.Socket != nil {
			options.ConsoleSocket = console
		}
		err = runtime.Exec(ctx, l.container.id, process, options)
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("start %s: crun: %w", l.process.Args[0], explain(ctx, err, log))
}

// explain returns the reason of crun's failure: that it had no more time, or what it said last.
func explain(ctx context.Context, err error, log string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if said := lastError(log); said != "" {
		return errors.New(said)
	}
	return err
}

// lastError is the last error in crun's log: lines of JSON.
func lastError(log string) string {
	// Far more than crun ever says.
	const maxLog = 64 << 10
	content, err := os.ReadFile(log)
	if err != nil {
		return ""
	}
	last := ""
	for line := range bytes.Lines(content[:min(len(content), maxLog)]) {
		var entry struct {
			Level string `json:"level"`
			Msg   string `json:"msg"`
		}
		if json.Unmarshal(line, &entry) == nil && entry.Level == "error" && entry.Msg != "" {
			last = entry.Msg
		}
	}
	return last
}

// processIO gives crun the standard streams that its process inherits. Our ends of them are not go-runc's business.
type processIO struct{ *stdio }

func (processIO) Close() error          { return nil }
func (processIO) Stdin() io.WriteCloser { return nil }
func (processIO) Stdout() io.ReadCloser { return nil }
func (processIO) Stderr() io.ReadCloser { return nil }

// Set sets what crun inherits. With a terminal it needs none; but go-runc collects the output of a command that has none, and what
// crun has to say is in its log.
func (p processIO) Set(command *exec.Cmd) {
	if p.stdio == nil {
		command.Stdout, command.Stderr = os.Stderr, os.Stderr
		return
	}
	command.Stdin, command.Stdout, command.Stderr = p.process[0], p.process[1], p.process[2]
}
