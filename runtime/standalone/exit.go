package standalone

import (
	"errors"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/runtime"
	"github.com/limpet-run/limpet/runtime/exitcode"
)

// StartError is a run that did not come to run its command. Code is the exit status that says so.
type StartError struct {
	Err  error
	Code int
}

func (e *StartError) Error() string { return e.Err.Error() }

// Unwrap returns what went wrong.
func (e *StartError) Unwrap() error { return e.Err }

// Code is the exit status that an error of Start stands for.
func Code(err error) int {
	if start, ok := errors.AsType[*StartError](err); ok {
		return start.Code
	}
	return exitcode.Failure
}

// programError tells by its exit status whether a container could not be created or started because of its program. Of one that is in the
// guest, the guest's crun says so, in words only.
func programError(err error) error {
	text := err.Error()
	code := exitcode.Failure
	switch {
	case errdefs.IsPermissionDenied(err), strings.Contains(text, "is not executable"), strings.Contains(text, "is not a regular file"):
		code = exitcode.NotExecutable
	case errdefs.IsNotFound(err), strings.Contains(text, "executable file") && strings.Contains(text, "not found"):
		code = exitcode.NotFound
	}
	return &StartError{Err: err, Code: code}
}

// exitOf is how a run ended whose command ended so.
func exitOf(status runtime.ExitStatus, timedOut bool) Exit {
	exit := Exit{Code: int(status.Code), Reason: status.Reason, At: status.At}
	switch {
	case timedOut:
		exit.Code, exit.Reason = exitcode.Timeout, "timeout"
	case status.Reason == "vm lost":
		exit.Code = exitcode.Failure
	}
	return exit
}
