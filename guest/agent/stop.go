package agent

import (
	"context"
	"errors"
	"time"

	"github.com/limpet-run/limpet/guest/agent/container"
	"github.com/limpet-run/limpet/guest/protocol"
)

// byeTimeout is how long the machine stays up for the host to hear its last words and hang up: a round trip takes a millisecond, under
// emulation on a busy host a tenth of a second.
const byeTimeout = time.Second

// othersPatience is how long containers that are not the host's may take to end with the machine, at most: nobody waits for their exits.
const othersPatience = 2 * time.Second

// AlsoStop has a stop end the containers of another set as well. It is called before Run.
func (a *Agent) AlsoStop(others *container.Set) { a.others = others }

// stop ends every container, and with the answer the agent. The host has heard of every exit before it is answered.
func (a *Agent) stop(ctx context.Context, m protocol.Stop) (answer, func()) {
	patience := time.Duration(min(m.TimeoutMS, maxStopMS)) * time.Millisecond
	others := make(chan error, 1)
	go func() {
		if a.others == nil {
			others <- nil
			return
		}
		others <- a.others.Stop(ctx, min(patience, othersPatience))
	}()
	result := done(errors.Join(a.containers.Stop(ctx, patience), <-others))
	ctx, cancel := context.WithTimeout(ctx, byeTimeout)
	defer cancel()
	a.own.outbox.flush(ctx)
	return result, a.bye
}

// maxStopMS keeps the patience of a stop below what a command may take.
const maxStopMS = uint64(commandTimeout/time.Millisecond) / 2

// shutdownPatience is how long containers may take to end when the machine is shut down from inside, as with a Stop's TimeoutMS.
const shutdownPatience = 10 * time.Second

// Shutdown ends the machine as a Stop of the host does. It returns when Run is about to.
func (a *Agent) Shutdown() {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	result, bye := a.stop(ctx, protocol.Stop{TimeoutMS: uint64(shutdownPatience.Milliseconds())})
	if result.err != nil {
		a.logger.Error("shut down", "error", result.err)
	}
	bye()
}

// bye says bye and gives the host time to hang up. Run returns then.
func (a *Agent) bye() {
	a.leave.Do(func() {
		a.own.outbox.addEvent(protocol.Bye{Reason: "stopped"})
		close(a.leaving)
		time.AfterFunc(byeTimeout, a.hangUp)
	})
}
