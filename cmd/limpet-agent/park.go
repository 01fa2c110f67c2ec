package main

import (
	"context"
	"errors"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/limpet-run/limpet/guest/agent"
	"github.com/limpet-run/limpet/guest/agent/container"
	"github.com/limpet-run/limpet/guest/agent/machine"
	"github.com/limpet-run/limpet/guest/protocol"
)

// idleTime is how long a machine waits for its first container until it is one that was made in advance. For a container that is to be
// started at once its host has asked for less than that after the machine has come up.
const idleTime = time.Second

// park stops the machine, if it is to become a template. It returns in every clone of it. What a clone would do for the first time is done
// before; what its emulator has to translate, as it will be wanted as soon as there is a way to the host, while the kernel looks for it.
func park(ctx context.Context, r *rehearsal) error {
	asked, err := machine.ParkAsked()
	if err != nil || !asked {
		return err
	}
	if err := errors.Join(protocol.GuestMessages.Prepare(), protocol.AgentResponses.Prepare()); err != nil {
		return err
	}
	if err := errors.Join(r.session(ctx), r.set.Rehearse(ctx)); err != nil {
		return err
	}
	session, err := r.agent.PrepareRehearsal(ctx)
	if err != nil {
		return err
	}
	// What is saved is copied for each clone.
	debug.FreeOSMemory()
	if err := machine.ZeroFree(); err != nil {
		return err
	}
	return machine.Park(func() {
		if err := session(ctx); err != nil {
			r.logger.Warn("the session will begin slowly", "error", err)
		}
	})
}

// rehearsal is of what the host is going to ask for.
type rehearsal struct {
	agent  *agent.Agent
	set    *container.Set
	logger *slog.Logger
}

// newRehearsal makes one. Its containers are made as the options say, and nobody hears of them.
func newRehearsal(containers container.Options, logger *slog.Logger) *rehearsal {
	r := &rehearsal{set: container.NewSet(containers), logger: logger}
	r.agent = agent.New(agent.Options{
		Version: version, Machine: standIn{}, Containers: containers, Logger: slog.New(slog.DiscardHandler),
	})
	return r
}

// session rehearses the beginning of a session.
func (r *rehearsal) session(ctx context.Context) error {
	rehearse, err := r.agent.PrepareRehearsal(ctx)
	if err != nil {
		return err
	}
	return rehearse(ctx)
}

// whenIdle rehearses the start of a container in a machine that does not have one yet.
func (r *rehearsal) whenIdle(ctx context.Context, containers *container.Set) {
	if containers.Used() {
		return
	}
	if err := r.set.Rehearse(ctx); err != nil {
		r.logger.Warn("the first container will start slowly", "error", err)
		return
	}
	r.logger.Debug("the start of a container is rehearsed")
}

// standIn is the hardware in a rehearsal: its clock is nobody's, and its randomness the processor's.
type standIn struct{ hardware }

func (standIn) SetClock(int64) error { return nil }
func (standIn) Reseed([]byte) error  { return machine.Reseed(nil) }
