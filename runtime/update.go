package runtime

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/runtime/oci"
)

// Update changes the limits of a container that was created or runs, and the size of its machine with them: it grows before the limits
// are raised and shrinks after they are lowered. What the update does not name stays. A value that makes no sense is an
// ErrInvalidArgument, one that a VM cannot hold an ErrNotImplemented, a container that has ended an ErrFailedPrecondition. On error
// nothing has changed.
func (c *Container) Update(ctx context.Context, update *specs.LinuxResources) error {
	if err := c.update(ctx, update); err != nil {
		return fmt.Errorf("update container %s: %w", c.id, err)
	}
	return nil
}

func (c *Container) update(ctx context.Context, update *specs.LinuxResources) error {
	select { // the updates take turns
	case c.updating <- struct{}{}:
		defer func() { <-c.updating }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	c.mu.Lock()
	err := c.takesUpdates()
	before := c.resources
	c.mu.Unlock()
	if err != nil {
		return err
	}
	after, err := oci.UpdateResources(before, update)
	if err != nil {
		return err
	}
	had, asked := demandOf(before), demandOf(after)
	c.demand(had.most(asked))
	err = c.sandbox.grow(ctx)
	if err == nil {
		err = c.limit(ctx, after)
	}
	if err != nil {
		asked = had
	}
	c.demand(asked)
	c.sandbox.shrink(ctx)
	return err
}

// takesUpdates tells why the container's limits cannot be changed now. The caller holds the lock.
func (c *Container) takesUpdates() error {
	switch {
	case !c.life.in(containerActive, containerPaused):
		return fmt.Errorf("it is %s: %w", c.life.state, errdefs.ErrFailedPrecondition)
	case !c.init.life.in(processCreated, processRunning):
		return fmt.Errorf("its init process is %s: %w", c.init.life.state, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// limit puts the limits in force: for a container that runs the guest does, for one that does not they are what it will start with.
func (c *Container) limit(ctx context.Context, after *specs.LinuxResources) error {
	guest, _ := oci.GuestResources(after)
	c.mu.Lock()
	err := c.takesUpdates()
	running := c.init.life.state == processRunning
	if err == nil && !running {
		if had := c.plan.Spec.Linux.Resources; had != nil {
			guest.Devices = had.Devices // by their numbers in the guest
		}
		c.resources, c.plan.Spec.Linux.Resources = after, guest
	}
	c.mu.Unlock()
	if err != nil || !running {
		return err
	}
	// Devices stay as they are: what cannot be changed need not be set again.
	text, err := json.Marshal(&specs.LinuxResources{Memory: guest.Memory, CPU: guest.CPU, Pids: guest.Pids, Unified: guest.Unified})
	if err != nil {
		return err
	}
	if _, err := c.sandbox.call(ctx, callTimeout, protocol.Update{ContainerID: c.id, Resources: text}); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.resources = after
	return nil
}
