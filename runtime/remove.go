package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
)

// reclaimPoll is how often it is tried to clean up where somebody else is at it.
const reclaimPoll = 20 * time.Millisecond

// RemoveSandbox removes what is left of a sandbox whose holder is gone, until ctx ends. One whose holder lives is an ErrFailedPrecondition,
// or with force is killed with its holder first. That it has been removed meanwhile, by containerd for one, is no error.
func RemoveSandbox(ctx context.Context, sandbox SandboxInfo, force bool) error {
	if sandbox.Holder.Lives() {
		if !force {
			return fmt.Errorf("sandbox %s belongs to process %d, which lives: %w", sandbox.ID, sandbox.Holder.PID,
				errdefs.ErrFailedPrecondition)
		}
		if err := EndProcess(ctx, sandbox.Holder); err != nil {
			return err
		}
	}
	if err := reclaimUntil(ctx, sandbox.Dir); err != nil {
		return fmt.Errorf("remove sandbox %s: %w", sandbox.ID, err)
	}
	link := filepath.Join(sandbox.Bundle, stateLink)
	if state, err := os.Readlink(link); err != nil || state != sandbox.Dir {
		return nil // its bundle is gone, or another sandbox's now
	}
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove sandbox %s: %w", sandbox.ID, err)
	}
	return nil
}

// reclaimUntil cleans up a state directory, or waits until somebody else has, who cannot be asked when.
func reclaimUntil(ctx context.Context, path string) error {
	ticker := time.NewTicker(reclaimPoll)
	defer ticker.Stop()
	for {
		err := reclaim(ctx, path)
		if !errdefs.IsAlreadyExists(err) {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return err
		}
	}
}
