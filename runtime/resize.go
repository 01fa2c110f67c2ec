package runtime

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/limpet-run/limpet/guest/protocol"
)

// resizeTimeout is how long the guest may take to put to use what is added: under emulation, on a host with two processors, a
// processor took half a second and a gigabyte a twentieth.
const resizeTimeout = 60 * time.Second

// grow makes the machine as large as its containers ask for, and returns when the guest uses what it got.
func (s *Sandbox) grow(ctx context.Context) error {
	select { // resizes take turns
	case s.resizing <- struct{}{}:
		defer func() { <-s.resizing }()
	case <-s.lost:
		return s.whyLost()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return s.resize(ctx, s.wanted())
}

// shrink takes back what no container asks for any more. It waits for nobody: if the machine is being resized, the next resize does it.
func (s *Sandbox) shrink(ctx context.Context) {
	select {
	case s.resizing <- struct{}{}:
		defer func() { <-s.resizing }()
	default:
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout) // also after a failure by the caller's context
	defer cancel()
	want := s.wanted()
	want.vcpus = min(want.vcpus, s.size.vcpus)
	want.addedMemory = min(want.addedMemory, s.size.addedMemory)
	if err := s.resize(ctx, want); err != nil && !s.isLost() {
		s.log.Warn("the machine stays as large as it is", "error", err)
	}
}

// wanted is the size that the machine's containers come to.
func (s *Sandbox) wanted() size {
	s.mu.Lock()
	demands := slices.Collect(maps.Values(s.demands))
	s.mu.Unlock()
	want, cut := s.frame.size(slices.Values(demands))
	if cut {
		s.log.Warn("the containers' limits come to more than the machine can have (vm.max_vcpus, vm.max_memory_mib)",
			"vcpus", want.vcpus, "memory_mib", s.frame.memory+want.addedMemory)
	}
	return want
}

// resize brings the machine to a size. Processors that run are kept. Who calls it has the turn.
func (s *Sandbox) resize(ctx context.Context, want size) error {
	before := s.size
	defer func() {
		if s.size != before {
			s.note(func(record *record) { record.Size = s.frame.record(s.size) })
		}
	}()
	if want.addedMemory != s.size.addedMemory {
		grows := want.addedMemory > s.size.addedMemory
		if err := s.machine.ResizeMemory(ctx, want.addedMemory); err != nil {
			return fmt.Errorf("resize the machine: %w", err)
		}
		s.size.addedMemory = want.addedMemory
		if grows {
			if err := s.plugged(ctx, protocol.PlugMemory, uint64(want.addedMemory)*mebibyte); err != nil {
				return err
			}
		}
	}
	if want.vcpus > s.size.vcpus {
		if err := s.plugged(ctx, protocol.PlugProcessors, uint64(want.vcpus)); err != nil {
			return err
		}
		s.size.vcpus = want.vcpus
	}
	return nil
}

// plugged has the guest put to use what it is given, and waits until it has.
func (s *Sandbox) plugged(ctx context.Context, device string, amount uint64) error {
	if _, err := s.call(ctx, resizeTimeout, protocol.Plug{Device: device, Amount: amount}); err != nil {
		return fmt.Errorf("resize the machine: the guest does not take its %s: %w", device, err)
	}
	return nil
}

// enlist makes the container one of those whose demands the machine's size follows.
func (c *Container) enlist() {
	s := c.sandbox
	s.mu.Lock()
	s.demands[c] = demandOf(c.resources)
	s.mu.Unlock()
	c.undo.push("give back what it asked of the machine", func(ctx context.Context) error {
		s.mu.Lock()
		delete(s.demands, c)
		s.mu.Unlock()
		s.shrink(ctx)
		return nil
	})
}

// demand changes what the container asks of the machine, unless it is gone.
func (c *Container) demand(asked demand) {
	c.sandbox.mu.Lock()
	defer c.sandbox.mu.Unlock()
	if _, known := c.sandbox.demands[c]; known {
		c.sandbox.demands[c] = asked
	}
}
