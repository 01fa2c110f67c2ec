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
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/runtime/cgroup"
	"github.com/limpet-run/limpet/runtime/oci"
)

// cleanupTimeout is how long Cleanup takes at most: containerd kills its caller after 5 seconds.
const cleanupTimeout = 4 * time.Second

// Cleanup removes what the sandbox of a bundle left on the host when its shim was killed: processes, mounts, files, what is attached to
// network interfaces. It needs no configuration and may be called again. Where nothing is left it does nothing, nor to a sandbox whose shim
// lives. It takes no more than 4 seconds.
func Cleanup(ctx context.Context, bundle string) error {
	ctx, cancel := context.WithTimeout(ctx, cleanupTimeout)
	defer cancel()
	link := filepath.Join(bundle, stateLink)
	var errs []error
	state, err := os.Readlink(link)
	switch {
	case err == nil:
		err := reclaim(ctx, state)
		if errdefs.IsAlreadyExists(err) { // its shim lives
			return nil
		}
		errs = append(errs, err)
	case !errors.Is(err, fs.ErrNotExist):
		errs = append(errs, fmt.Errorf("look for the sandbox's state: %w", err))
	}
	// A container that failed early may have a rootfs and no record.
	errs = append(errs, detachBelow(filepath.Join(bundle, rootfsDir)))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clean up bundle %s: %w", bundle, err)
	}
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("clean up bundle %s: %w", bundle, err)
	}
	return nil
}

// cleanupState ends what a state directory remembers, and removes it. With a record that cannot be read the directory stays: processes
// may live on that nobody else knows of.
func cleanupState(ctx context.Context, path string) error {
	left, err := readRecord(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // the record is the first thing written: without it nothing was begun
		return err
	}
	var errs []error
	for _, process := range left.Machine {
		errs = append(errs, endGroup(ctx, process))
	}
	if left.Pod != nil {
		errs = append(errs, cleanupNamespace(ctx, left.Pod.Anchor, left.Pod.Network))
	}
	for _, container := range left.Containers {
		errs = append(errs, cleanupNamespace(ctx, container.Anchor, container.Network))
	}
	for _, container := range left.Containers {
		if container.Rootfs != "" {
			errs = append(errs, detachBelow(container.Rootfs))
		}
	}
	if left.Bridge != nil {
		errs = append(errs, left.Bridge.Remove(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := cgroup.Remove(ctx, left.Cgroup); err != nil {
		return err
	}
	for id, container := range left.Containers {
		errs = append(errs, cleanupHooks(ctx, id, container.Bundle))
	}
	return errors.Join(append(errs, removeTree(path))...) // a hook that fails keeps nothing back
}

// cleanupNamespace ends an anchor and detaches what its network namespace has of limpet, as far as there is any.
func cleanupNamespace(ctx context.Context, anchor *hypervisor.Process, network *networkRecord) error {
	var errs []error
	if anchor != nil {
		errs = append(errs, endGroup(ctx, *anchor))
	}
	if network != nil {
		errs = append(errs, network.cleanup())
	}
	return errors.Join(errs...)
}

// cleanupHooks runs a container's poststop hooks, which take back what others did for it, such as its network. A bundle that is
// gone has none.
func cleanupHooks(ctx context.Context, id, bundle string) error {
	spec, err := oci.Load(bundle)
	if err != nil || spec.Hooks == nil {
		return nil
	}
	state := specs.State{Version: spec.Version, ID: id, Status: specs.StateStopped, Bundle: bundle, Annotations: spec.Annotations}
	return runHooks(ctx, spec.Hooks.Poststop, state)
}
