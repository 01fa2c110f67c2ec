package standalone

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/runtime"
	"github.com/limpet-run/limpet/runtime/exitcode"
)

func TestCode(t *testing.T) {
	for _, test := range []struct {
		err  error
		want int
	}{
		{fmt.Errorf("program: %w", errdefs.ErrNotFound), exitcode.NotFound},
		{fmt.Errorf("program: %w", errdefs.ErrPermissionDenied), exitcode.NotExecutable},
		{errors.New("crun: executable file `x` not found in $PATH: No such file or directory"), exitcode.NotFound},
		{errors.New("crun: the path `/x` exists but it is not executable: Operation not permitted"), exitcode.NotExecutable},
		{errors.New("crun: the path `/etc` is not a regular file: Operation not permitted"), exitcode.NotExecutable},
		{errors.New("crun: chdir to `/x`: Not a directory"), exitcode.Failure},
		{errdefs.ErrUnavailable, exitcode.Failure},
	} {
		if got := Code(fmt.Errorf("run: %w", programError(test.err))); got != test.want {
			t.Errorf("%v: %d, want %d", test.err, got, test.want)
		}
	}
	if got := Code(errdefs.ErrNotFound); got != exitcode.Failure { // of a root file system, say
		t.Errorf("got %d", got)
	}
}

func TestExitOf(t *testing.T) {
	now := time.Now()
	for _, test := range []struct {
		status   runtime.ExitStatus
		timedOut bool
		want     Exit
	}{
		{runtime.ExitStatus{Code: 3, Reason: "exited", At: now}, false, Exit{3, "exited", now}},
		{runtime.ExitStatus{Code: 137, Reason: "killed", At: now}, false, Exit{137, "killed", now}},
		{runtime.ExitStatus{Code: 137, Reason: "killed", At: now}, true, Exit{exitcode.Timeout, "timeout", now}},
		{runtime.ExitStatus{Code: 255, Reason: "vm lost", At: now}, false, Exit{exitcode.Failure, "vm lost", now}},
	} {
		if got := exitOf(test.status, test.timedOut); got != test.want {
			t.Errorf("%+v: got %+v", test.status, got)
		}
	}
}
