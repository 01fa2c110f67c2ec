package agent

import (
	"context"
	"time"

	"github.com/limpet-run/limpet/guest/protocol"
)

// byeTimeout is how long the machine stays up for the host to hear its last words and hang up: a round trip takes a millisecond, under
// emulation on a busy host a tenth of a second.
const byeTimeout = time.Second

// stop ends every container, and with the answer the agent. The host has heard of every exit before it is answered.
func (a *Agent) stop(ctx context.Context, m protocol.Stop) (answer, func()) {
	result := done(a.containers.Stop(ctx, time.Duration(min(m.TimeoutMS, maxStopMS))*time.Millisecond))
	ctx, cancel := context.WithTimeout(ctx, byeTimeout)
	defer cancel()
	a.outbox.flush(ctx)
	return result, a.bye
}

// maxStopMS keeps the patience of a stop below what a command may take.
const maxStopMS = uint64(commandTimeout/time.Millisecond) / 2

// bye says bye and gives the host time to hang up. Run returns then.
func (a *Agent) bye() {
	a.outbox.addEvent(protocol.Bye{Reason: "stopped"})
	close(a.leaving)
	time.AfterFunc(byeTimeout, a.hangUp)
}
