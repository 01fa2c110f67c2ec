package shim

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestToStatus takes errors to a client and back: it reads each message once, and tells their classes.
func TestToStatus(t *testing.T) {
	reason := errors.New("no such file")
	for name, test := range map[string]struct {
		err  error
		code codes.Code
		is   error
		want string // the error's own message if empty
	}{
		"class at the end": {fmt.Errorf("QEMU: %w: %w", reason, errdefs.ErrNotFound), codes.NotFound, errdefs.ErrNotFound, ""},
		"class first":      {fmt.Errorf("%w: VM: %w", errdefs.ErrUnavailable, reason), codes.Unavailable, errdefs.ErrUnavailable, ""},
		"two classes":      {fmt.Errorf("%w: %w", errdefs.ErrUnavailable, errdefs.ErrNotFound), codes.Unavailable, errdefs.ErrUnavailable, ""},
		"nested classes": {fmt.Errorf("a: %w: %w", fmt.Errorf("b: %w: %w", reason, errdefs.ErrAborted), reason), codes.Aborted,
			errdefs.ErrAborted, ""},
		"no class":          {fmt.Errorf("start: %w: %w", reason, reason), codes.Unknown, errdefs.ErrUnknown, ""},
		"joined":            {errors.Join(reason, errors.New("and not undone")), codes.Unknown, errdefs.ErrUnknown, ""},
		"deadline":          {fmt.Errorf("agent: %w", context.DeadlineExceeded), codes.DeadlineExceeded, context.DeadlineExceeded, ""},
		"a status already":  {status.Error(codes.NotFound, "task"), codes.NotFound, errdefs.ErrNotFound, "task"},
		"only a class":      {errdefs.ErrNotImplemented, codes.Unimplemented, errdefs.ErrNotImplemented, ""},
		"the console's end": {fmt.Errorf("VM: %w\nconsole", errdefs.ErrUnavailable), codes.Unavailable, errdefs.ErrUnavailable, ""},
	} {
		t.Run(name, func(t *testing.T) {
			sent := toStatus(test.err)
			if status.Code(sent) != test.code {
				t.Errorf("sent %v", sent)
			}
			want := test.want
			if want == "" {
				want = test.err.Error()
			}
			if got := errgrpc.ToNative(sent); got.Error() != want || !errors.Is(got, test.is) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
	if err := toStatus(nil); err != nil {
		t.Errorf("of nil: %v", err)
	}
}
