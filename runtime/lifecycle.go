package runtime

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
)

// lifecycle is a state that moves only along its table. Whoever owns it guards it.
type lifecycle[S ~string] struct {
	state S
	moves map[S][]S // from each state, where to
}

// move goes to another state, or returns an ErrFailedPrecondition and stays.
func (l *lifecycle[S]) move(to S) error {
	if !slices.Contains(l.moves[l.state], to) {
		return fmt.Errorf("is %s, cannot become %s: %w", l.state, to, errdefs.ErrFailedPrecondition)
	}
	l.state = to
	return nil
}

// mustMove is move where the owner has already made sure that it can be done.
func (l *lifecycle[S]) mustMove(to S) {
	if err := l.move(to); err != nil {
		panic("runtime: " + err.Error())
	}
}

// in tells whether the state is one of those.
func (l *lifecycle[S]) in(states ...S) bool { return slices.Contains(states, l.state) }

type sandboxState string

const (
	sandboxCreating sandboxState = "creating"
	sandboxParked   sandboxState = "parked"
	sandboxRunning  sandboxState = "running"
	sandboxFailed   sandboxState = "failed"
	sandboxStopping sandboxState = "stopping"
	sandboxStopped  sandboxState = "stopped"
)

var sandboxMoves = map[sandboxState][]sandboxState{
	sandboxCreating: {sandboxRunning, sandboxFailed},
	sandboxParked:   {sandboxCreating, sandboxFailed, sandboxStopping},
	sandboxRunning:  {sandboxParked, sandboxFailed, sandboxStopping},
	sandboxFailed:   {sandboxStopping},
	sandboxStopping: {sandboxStopped, sandboxFailed},
}

type containerState string

const (
	containerCreating containerState = "creating"
	containerActive   containerState = "active"
	containerPaused   containerState = "paused"
	containerDeleting containerState = "deleting"
	containerDeleted  containerState = "deleted"
)

var containerMoves = map[containerState][]containerState{
	containerCreating: {containerActive},
	containerActive:   {containerPaused, containerDeleting},
	containerPaused:   {containerActive, containerDeleting},
	containerDeleting: {containerActive, containerDeleted},
}

type processState string

const (
	processCreated  processState = "created"
	processStarting processState = "starting"
	processRunning  processState = "running"
	processStopped  processState = "stopped"
	processDeleted  processState = "deleted"
)

var processMoves = map[processState][]processState{
	processCreated:  {processStarting, processStopped, processDeleted},
	processStarting: {processRunning, processStopped},
	processRunning:  {processStopped},
	processStopped:  {processDeleted},
}
