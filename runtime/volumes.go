package runtime

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/runtime/oci"
)

// makeVolumes has the guest make what the container sees of its memory: a file system for the first container that has it, and for as
// long as the sandbox lives; a directory of one for this container.
func (c *Container) makeVolumes(ctx context.Context) error {
	for _, volume := range c.plan.Volumes {
		var err error
		if volume.Part == "" {
			_, err = c.sandbox.volumes.acquire(ctx, volume.Name, func(ctx context.Context) (struct{}, error) {
				return struct{}{}, c.sandbox.makeVolume(ctx, volume)
			})
		} else {
			// Pushed before, because the agent may do it although its answer does not come.
			c.undo.push("unmount a directory in the guest", func(ctx context.Context) error {
				c.dropVolume(ctx, volume)
				return nil
			})
			err = c.sandbox.makeVolume(ctx, volume)
		}
		if err != nil {
			return fmt.Errorf("mount on %s: %w", volume.Destination, err)
		}
	}
	return nil
}

// makeVolume has the guest make a volume. One that is there is from a call whose answer was not awaited.
func (s *Sandbox) makeVolume(ctx context.Context, volume oci.Volume) error {
	if _, err := s.call(ctx, callTimeout, volume.Message()); err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("make the volume in the guest: %w", err)
	}
	return nil
}

// dropVolume has the guest take away a directory of a volume. If it does not, that is its affair: it costs no memory.
func (c *Container) dropVolume(ctx context.Context, volume oci.Volume) {
	_, err := c.sandbox.call(ctx, callTimeout, protocol.Unmount{Target: volume.Target()})
	if err != nil && !errdefs.IsNotFound(err) && !c.sandbox.isLost() {
		c.log.Warn("the guest keeps a directory mounted", "volume", volume.Name, "error", err)
	}
}
