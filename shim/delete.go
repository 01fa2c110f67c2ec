package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limpet-run/limpet/runtime"
)

const (
	// deleteTimeout is less than the 5 s after which containerd kills the verb, so that an error can still be told.
	deleteTimeout = 4500 * time.Millisecond
	// lastTimeout is how long a server that was shut down may take to end by itself: a moment more than what its steps are given, and less
	// than deleteTimeout, so that there is time to end what it leaves.
	lastTimeout = 3750 * time.Millisecond
	// exitCodeKilled is how a task ends that went with its shim: 128 + SIGKILL, as with runc.
	exitCodeKilled = 128 + uint32(unix.SIGKILL)
)

// delete is the verb that containerd calls when the connection to a shim has ended, in good order or not. It ends the server of the
// bundle if it still lives, removes what is left of the sandbox, and writes how the container ended to stdout. It can be repeated.
//
// The bundle of a container that joined a sandbox has no server; there it only unmounts the container's rootfs.
func (c command) delete(ctx context.Context, sandboxes Runtime, stdout io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, deleteTimeout)
	defer cancel()
	if err := c.endServer(ctx); err != nil {
		return err
	}
	if err := sandboxes.Cleanup(ctx, c.bundle); err != nil {
		return fmt.Errorf("clean up after %s: %w", c.id, err)
	}
	task, err := readTaskRecord(c.bundle)
	if err != nil || task.Exit == nil {
		task.Exit = &exitRecord{Code: exitCodeKilled, At: time.Now()}
	}
	data, err := proto.Marshal(&taskapi.DeleteResponse{
		Pid: task.PID, ExitStatus: task.Exit.Code, ExitedAt: timestamppb.New(task.Exit.At),
	})
	if err != nil {
		return err
	}
	_, err = stdout.Write(data)
	return err
}

// endServer ends the server that was started for the bundle, if any, and removes its socket. One whose socket is gone was shut down, and is
// given time to end by itself.
func (c command) endServer(ctx context.Context) error {
	record, err := readServerRecord(c.bundle)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := os.Lstat(record.Socket); errors.Is(err, os.ErrNotExist) {
		ctx, cancel := context.WithTimeout(ctx, lastTimeout)
		defer cancel()
		_ = runtime.AwaitProcess(ctx, record.HostProcess) // or it is killed
	}
	if err := runtime.EndProcess(ctx, record.HostProcess); err != nil {
		return err
	}
	return removeStaleSocket(record.Socket)
}
