package requests

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
)

// run runs a command in a container of an image.
func (c *conn) run(context.Context, protocol.RunRequest) (protocol.AgentResponse, error) {
	return nil, fmt.Errorf("run: %w", errdefs.ErrNotImplemented)
}
