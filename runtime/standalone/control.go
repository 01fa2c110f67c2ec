package standalone

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/runtime"
)

// controlRequest is what is asked of a run's holder at its control door: one line of JSON.
type controlRequest struct {
	// Signal is sent to the command. With Stop the command is ended instead: by SIGTERM, and after the grace, if there is any, by SIGKILL.
	Signal unix.Signal   `json:"signal"`
	Stop   bool          `json:"stop"`
	Grace  time.Duration `json:"grace"` // nanoseconds
}

// controlAnswer is the answer, another line. What went well with Stop is not answered: the visitor is hung up on when nothing is left of
// the run but what is kept.
type controlAnswer struct {
	Error string `json:"error,omitempty"`
}

const (
	// maxControl bounds a line, in bytes: the longest is an error.
	maxControl = 64 << 10
	// controlTimeout is how long a visitor may take to say what he wants.
	controlTimeout = 10 * time.Second
)

// errStopped ends a start.
var errStopped = fmt.Errorf("it was stopped: %w", errdefs.ErrAborted)

// serveControl does what a visitor asks for.
func (r *Run) serveControl(ctx context.Context, visitor *net.UnixConn) {
	if err := visitor.SetReadDeadline(time.Now().Add(controlTimeout)); err != nil {
		return
	}
	var request controlRequest
	line, err := bufio.NewReader(io.LimitReader(visitor, maxControl)).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &request)
	}
	if err == nil {
		err = r.control(ctx, request)
	}
	var answer controlAnswer
	if err != nil {
		answer.Error = err.Error()
	} else if request.Stop {
		<-ctx.Done()
		return
	}
	_ = json.NewEncoder(visitor).Encode(answer) // he may be gone
}

func (r *Run) control(ctx context.Context, request controlRequest) error {
	select {
	case <-r.started:
		if request.Stop {
			return r.stop(ctx, request.Grace)
		}
		return r.Signal(ctx, request.Signal)
	default:
		if request.Stop {
			r.abandon(errStopped)
			return nil
		}
		return errors.New("its command is not started yet")
	}
}

// stop ends the command: with SIGTERM, and after the grace with SIGKILL.
func (r *Run) stop(ctx context.Context, grace time.Duration) error {
	if grace > 0 {
		if err := r.Signal(ctx, unix.SIGTERM); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		patience, cancel := context.WithTimeout(ctx, grace)
		defer cancel()
		if _, err := r.container.Init().Wait(patience); err == nil {
			return nil
		}
	}
	if err := r.Signal(ctx, unix.SIGKILL); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

// Find returns what is known of a run. ErrNotFound: there is none of that name.
func Find(stateDir, name string) (Record, error) {
	record, err := readRecord(placePath(stateDir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return record, fmt.Errorf("run %s: %w", name, errdefs.ErrNotFound)
	}
	return record, err
}

// Kill sends the command of a run a signal. ErrNotFound: there is no such run; ErrFailedPrecondition: it has ended.
func Kill(ctx context.Context, stateDir, name string, signal unix.Signal) error {
	return ask(ctx, stateDir, name, controlRequest{Signal: signal})
}

// Stop ends a run: its command gets SIGTERM, and after the grace SIGKILL. It returns when the run has ended. ErrNotFound: there is no such
// run; ErrFailedPrecondition: it has ended.
func Stop(ctx context.Context, stateDir, name string, grace time.Duration) error {
	return ask(ctx, stateDir, name, controlRequest{Stop: true, Grace: grace})
}

// Remove removes what is kept of a run that has ended, or what is left of one whose holder was killed. With force one that runs is killed
// first; else it is an ErrFailedPrecondition. ErrNotFound: there is no such run.
func Remove(ctx context.Context, stateDir, name string, force bool) error {
	path := placePath(stateDir, name)
	p, err := holdPlace(path)
	if errors.Is(err, errHeld) && force {
		if err := ask(ctx, stateDir, name, controlRequest{Stop: true}); err != nil {
			return err
		}
		if p, err = holdPlace(path); errors.Is(err, fs.ErrNotExist) { // it was not to be kept
			return nil
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("run %s: %w", name, errdefs.ErrNotFound)
	case errors.Is(err, errHeld):
		return fmt.Errorf("run %s has not ended: end it with `limpet stop` first, or use --force: %w", name, errdefs.ErrFailedPrecondition)
	case err != nil:
		return fmt.Errorf("remove run %s: %w", name, err)
	}
	if err := runtime.Cleanup(ctx, path); err != nil {
		p.release()
		return err
	}
	return p.remove()
}

// ask asks the holder of a run for something.
func ask(ctx context.Context, stateDir, name string, request controlRequest) error {
	record, err := Find(stateDir, name)
	if err != nil {
		return err
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", filepath.Join(placePath(stateDir, name), controlDoor))
	if err != nil {
		if record.Exit == nil {
			return fmt.Errorf("run %s: its process %d cannot be reached: remove it with `limpet rm`: %w", name, record.Holder, err)
		}
		return fmt.Errorf("run %s has ended: %w", name, errdefs.ErrFailedPrecondition)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if err := json.NewEncoder(conn).Encode(request); err != nil {
		return fmt.Errorf("run %s: %w", name, err)
	}
	line, err := bufio.NewReader(io.LimitReader(conn, maxControl)).ReadBytes('\n')
	if errors.Is(err, io.EOF) && request.Stop && !isHeld(placePath(stateDir, name)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("run %s: its process does not answer: %w", name, err)
	}
	var answer controlAnswer
	if err := json.Unmarshal(line, &answer); err != nil {
		return fmt.Errorf("run %s: its process answers what is not understood: %w", name, err)
	}
	if answer.Error != "" {
		return errors.New(answer.Error)
	}
	return nil
}

// isHeld tells whether there is a place that somebody holds.
func isHeld(path string) bool {
	p, err := holdPlace(path)
	if err == nil {
		p.release()
	}
	return errors.Is(err, errHeld)
}
