package standalone

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/runtime"
	"github.com/limpet-run/limpet/runtime/config"
	"github.com/limpet-run/limpet/runtime/exitcode"
)

// holderLog is the log of the process that holds a run in the background.
const holderLog = "holder.log"

// job is what a supervisor is told, as JSON.
type job struct {
	Request Request       `json:"request"`
	Config  config.Config `json:"config"`
}

// report is what a supervisor tells who started it, each a line of JSON: what it is doing, and last how its start went.
type report struct {
	Progress string `json:"progress,omitempty"`
	Started  bool   `json:"started,omitempty"`
	Error    string `json:"error,omitempty"`
	Code     int    `json:"code,omitempty"` // with an error: see Code
}

// Detach starts a run in the background: with that command, a supervisor, which calls Supervise. It returns once the run's command runs.
// When ctx ends before that, nothing of the run is left. The supervisor gets what it is to do by its standard input.
func Detach(ctx context.Context, command *exec.Cmd, request Request, configuration config.Config, progress func(string)) error {
	text, err := json.Marshal(job{request, configuration})
	if err != nil {
		return err
	}
	stdin, err := command.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		return err
	}
	command.Dir = "/"
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := command.Start(); err != nil {
		return fmt.Errorf("start the process that is to hold the sandbox: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = command.Process.Signal(unix.SIGTERM) })()
	if _, err := stdin.Write(text); err != nil {
		return fmt.Errorf("tell the process that is to hold the sandbox what to run: %w", err)
	}
	if err := stdin.Close(); err != nil {
		return err
	}
	if err := followStart(ctx, stdout, progress); err != nil {
		_ = command.Wait() // it has said itself how it went
		return err
	}
	return nil // it outlives this process
}

// followStart reads a supervisor's reports until it says how the start went.
func followStart(ctx context.Context, from io.Reader, progress func(string)) error {
	reports := json.NewDecoder(from)
	for {
		var said report
		if err := reports.Decode(&said); err != nil {
			return fmt.Errorf("the process that is to hold the sandbox has ended without a word: %w", err)
		}
		switch {
		case said.Error != "" && ctx.Err() != nil:
			return context.Cause(ctx)
		case said.Error != "":
			return &StartError{Err: errors.New(said.Error), Code: said.Code}
		case said.Started:
			return nil
		}
		progress(said.Progress)
	}
}

// Supervise holds a run in the background, of which it reads what it is, until it has ended. It says on out how its start went. When ctx
// ends the run is stopped.
func Supervise(ctx context.Context, in io.Reader, out io.WriteCloser) error {
	reports := json.NewEncoder(out)
	tell := func(said report) { _ = reports.Encode(said) } // who started it may be gone
	var asked job
	err := json.NewDecoder(in).Decode(&asked)
	var r *Run
	if err == nil {
		r, err = Start(ctx, Options{
			Request: asked.Request, Config: asked.Config, Detached: true,
			Progress: func(text string) { tell(report{Progress: text}) }, Logger: slog.New(slog.DiscardHandler),
		})
	}
	if err != nil {
		tell(report{Error: err.Error(), Code: Code(err)})
		return err
	}
	tell(report{Started: true})
	out.Close()
	return r.supervise(ctx)
}

func (r *Run) supervise(ctx context.Context) error {
	stopped := context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
		defer cancel()
		if err := r.stop(ctx, supervisorGrace); err != nil {
			r.options.Logger.Error("the command cannot be stopped", "error", err)
		}
	})
	defer stopped()
	exit, err := r.Wait(context.WithoutCancel(ctx))
	if err != nil {
		r.options.Logger.Error("it is not known how the command ended", "error", err)
		exit = Exit{Code: exitcode.Failure, Reason: "unknown", At: time.Now()}
	}
	if err := r.Close(context.WithoutCancel(ctx), &exit); err != nil {
		r.options.Logger.Error("something is left", "error", err)
		return err
	}
	return nil
}

// supervisorGrace is how long the command of a supervisor that is to end may take: hosts that shut down have little time.
const supervisorGrace = 5 * time.Second

// toBackground gives a run in the background its log and its output's file, in its place.
func (r *Run) toBackground() error {
	log, err := os.OpenFile(filepath.Join(r.place.path, holderLog), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("write a log: %w", err)
	}
	// It stays open as long as this process, whose last words it gets, too.
	if err := unix.Dup3(int(log.Fd()), unix.Stderr, 0); err != nil {
		return fmt.Errorf("write a log: %w", err)
	}
	r.options.Logger = slog.New(slog.NewTextHandler(log, nil))
	kept, err := openOutputLog(filepath.Join(r.place.path, outputFile), maxOutputFile)
	if err != nil {
		return err
	}
	r.options.IO = runtime.IO{Terminal: r.options.Request.Terminal, Stdout: r.outlet(kept.stream("stdout"))}
	if !r.options.Request.Terminal {
		r.options.IO.Stderr = r.outlet(kept.stream("stderr"))
	}
	return nil
}
