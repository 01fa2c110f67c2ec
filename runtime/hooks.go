package runtime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const (
	// hookGrace is how long a hook's children may keep its output open after it ended.
	hookGrace = time.Second
	// maxHookOutput is how much of a failed hook's output its error shows.
	maxHookOutput = 1024
)

// runHooks runs hooks on the host, in order, each given the container's state on its standard input, and stops at the first that
// fails. See "POSIX-platform Hooks" in the OCI runtime specification.
func runHooks(ctx context.Context, hooks []specs.Hook, state specs.State) error {
	if len(hooks) == 0 {
		return nil
	}
	input, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("tell hooks of container %s: %w", state.ID, err)
	}
	for _, hook := range hooks {
		if err := runHook(ctx, hook, input, state.Bundle); err != nil {
			return fmt.Errorf("hook %s of container %s: %w", hook.Path, state.ID, err)
		}
	}
	return nil
}

func runHook(ctx context.Context, hook specs.Hook, input []byte, dir string) error {
	if hook.Timeout != nil {
		limit := time.Duration(*hook.Timeout) * time.Second
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done within its timeout of %s", limit))
		defer cancel()
	}
	var output bytes.Buffer
	cmd := exec.CommandContext(ctx, hook.Path)
	if len(hook.Args) > 0 {
		cmd.Args = hook.Args
	}
	cmd.Env = hook.Env
	cmd.Dir = dir
	cmd.Stdin = bytes.NewReader(input)
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.WaitDelay = hookGrace
	err := cmd.Run()
	var notStarted *fs.PathError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return nil
	case errors.As(err, &notStarted):
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	}
	if text := bytes.TrimSpace(output.Bytes()); len(text) > 0 {
		err = fmt.Errorf("%w: %s", err, text[max(0, len(text)-maxHookOutput):])
	}
	return err
}
