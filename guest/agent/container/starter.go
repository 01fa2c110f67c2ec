package container

import (
	"context"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/guest/agent/reaper"
	"github.com/limpet-run/limpet/guest/protocol"
)

// starter starts one process. What it starts is claimed from the reaper; on an error nothing of the process is left.
type starter interface {
	start(ctx context.Context, l launch) (launched, error)
}

// launch is a process to be started.
type launch struct {
	container *Container
	requestID uint64
	init      bool           // the container's first process: its bundle is written
	process   *specs.Process // what to start; for an init the bundle says the same
	io        *stdio         // nil with a terminal
	size      *protocol.Size // of the terminal, nil: left to the kernel (0 by 0)
}

// launched is a process that was started.
type launched struct {
	child   *reaper.Child
	console *terminal // nil without a terminal
}
