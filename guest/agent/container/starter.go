package container

import (
	"context"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/guest/agent/reaper"
	"github.com/limpet-run/limpet/guest/protocol"
)

// startTimeout is how long a start may take: by crun one took 0.3 s in an emulated guest, and fifty at once on one processor 15 s.
const startTimeout = 60 * time.Second

// starter starts one process. What it starts is claimed from the reaper; on an error nothing of the process is left.
type starter interface {
	start(ctx context.Context, l launch) (launched, error)
}

// launch is a process to be started.
type launch struct {
	container *Container
	requestID uint64
	process   *specs.Process // what to start
	io        *stdio         // nil with a terminal
	size      *protocol.Size // of the terminal, nil: left to the kernel (0 by 0)
	*first                   // of a container's first process; nil: its container runs
}

// first is what there is to a container's first process beside the process itself.
type first struct {
	spec   *specs.Spec // the container's; its namespaces have this guest's paths, its user numbers
	raw    []byte      // the container's as it came
	*parts             // nil: it is not native that starts it
}

// launched is a process that was started.
type launched struct {
	child   *reaper.Child
	console *terminal // nil without a terminal
}
