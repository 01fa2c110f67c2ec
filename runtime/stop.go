package runtime

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/limpet-run/limpet/guest/protocol"
)

// guestStopTimeout is how long the guest may take to end what still runs and to sync its file systems, and to say so. It is less
// where the caller has less time.
const guestStopTimeout = 4 * time.Second

// Stop ends the sandbox: the agent ends what runs, the machine goes, and everything on the host is undone. It may be called more
// than once and at the same time; after an error it may be called again to try what failed.
func (s *Sandbox) Stop(ctx context.Context) error {
	s.mu.Lock()
	for s.life.state == sandboxStopping {
		stopping := s.stopping
		s.mu.Unlock()
		select {
		case <-stopping:
		case <-ctx.Done():
			return fmt.Errorf("stop sandbox %s: %w", s.id, context.Cause(ctx))
		}
		s.mu.Lock()
	}
	if s.life.state == sandboxStopped {
		s.mu.Unlock()
		return nil
	}
	s.life.mustMove(sandboxStopping)
	s.stopping = make(chan struct{})
	defer close(s.stopping)
	containers := slices.Collect(maps.Values(s.containers))
	s.mu.Unlock()

	times := newTrace()
	err := s.stop(ctx, containers, times)
	if err == nil {
		s.addPart(PartStop, times)
		logTrace(s.log, s.trace())
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.life.mustMove(sandboxFailed)
		return fmt.Errorf("stop sandbox %s: %w", s.id, err)
	}
	s.life.mustMove(sandboxStopped)
	return nil
}

func (s *Sandbox) stop(ctx context.Context, containers []*Container, times *trace) error {
	if !s.deserted() {
		done := times.stage("guest")
		s.stopGuest(ctx)
		done()
	}
	done := times.stage("machine")
	if err := s.machine.Stop(ctx); err != nil {
		return err
	}
	select { // the processes have ended before what they used is taken away
	case <-s.lost:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	done()
	var errs []error
	for _, container := range containers {
		errs = append(errs, container.undo.run(ctx, times))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return s.undo.run(ctx, times)
}

// deserted tells whether nothing in the guest has an end to come to: its last container was deleted, and with it every disk, and nobody
// has had anything else done there. What processes have written to the share is on the host when they have ended.
func (s *Sandbox) deserted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pod == nil && s.claimed && len(s.containers) == 0 && !s.visited.Load()
}

// endsWith tells whether the sandbox comes to its end with a container that is being deleted, as no other is left: that of a pod does not.
// Then the guest need not be told to remove it. A container with disks is removed all the same, as file systems on them are to be
// unmounted, and a spare goes on.
func (s *Sandbox) endsWith(c *Container) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := len(s.containers) == 1 && s.containers[c.id] == c
	return s.pod == nil && last && len(c.plan.Disks) == 0 && !s.visited.Load() && !s.rehearsing.Load()
}

// stopGuest has the agent end what runs. It takes no more than half of the caller's time: the machine ends in any case, and what is
// on the host is undone. Of its own time the agent gets half, so that its answer comes.
func (s *Sandbox) stopGuest(ctx context.Context) {
	limit := guestStopTimeout
	if deadline, ok := ctx.Deadline(); ok {
		limit = max(0, min(limit, time.Until(deadline)/2))
	}
	_, err := s.call(ctx, limit, protocol.Stop{TimeoutMS: uint64((limit / 2).Milliseconds())})
	if err != nil && !s.isLost() {
		s.log.Warn("the guest did not stop in good order", "error", err)
	}
}
