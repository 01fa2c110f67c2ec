package container

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Stop ends every container: TERM, and KILL after the timeout. It returns when their exits are reported and the share is unmounted.
// Nothing can be started from then on.
func (s *Set) Stop(ctx context.Context, timeout time.Duration) error {
	inits := s.close()
	errs := []error{}
	for _, p := range inits {
		errs = append(errs, p.signal(unix.SIGTERM))
	}
	patience, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if !await(patience, inits, (*Process).ended) {
		for _, p := range inits {
			errs = append(errs, p.container.signalAll(unix.SIGKILL))
		}
	}
	if !await(ctx, inits, (*Process).told) {
		errs = append(errs, fmt.Errorf("stop: processes do not end: %w", ctx.Err()))
	}
	if err := s.beginMounting(ctx); err != nil {
		return errors.Join(append(errs, err)...)
	}
	defer func() { <-s.mounting }()
	if s.mounted {
		errs = append(errs, s.Unmount())
		s.mounted = false
	}
	return errors.Join(errs...)
}

// close keeps anything new from starting and returns the inits that were started.
func (s *Set) close() []*Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = true
	var inits []*Process
	for _, c := range s.containers {
		if c.init != nil {
			inits = append(inits, c.init)
		}
	}
	return inits
}

func (p *Process) ended() <-chan struct{} { return p.child.Done() }
func (p *Process) told() <-chan struct{}  { return p.reported }

// await waits until something is true of every process, as long as ctx allows.
func await(ctx context.Context, processes []*Process, when func(*Process) <-chan struct{}) bool {
	for _, p := range processes {
		select {
		case <-when(p):
		case <-ctx.Done():
			return false
		}
	}
	return true
}
