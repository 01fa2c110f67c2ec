package runtime

import (
	"context"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// anchorGrace is how long an anchor may take to end, which is killed.
const anchorGrace = time.Second

// ended deals with what the agent says of the process's end. Only the first word counts.
func (p *Process) ended(status ExitStatus) {
	p.container.mu.Lock()
	defer p.container.mu.Unlock()
	if p.ending || !p.life.in(processStarting, processRunning) {
		return
	}
	p.ending = true
	go p.finish(status)
}

// vmLost ends the process because its machine has ended, unless it has ended before.
func (p *Process) vmLost() {
	if !p.endUnstarted(lostStatus()) {
		p.ended(lostStatus())
	}
}

// endUnstarted ends a process that was not started, and tells whether it was one.
func (p *Process) endUnstarted(status ExitStatus) bool {
	p.container.mu.Lock()
	created := p.life.state == processCreated
	if created {
		p.stop(status)
	}
	p.container.mu.Unlock()
	if created {
		p.noteInit()
		p.streams.close()
	}
	return created
}

// followAnchor kills init if somebody has killed what stands for it on the host.
func (c *Container) followAnchor() {
	if !c.anchor.Wait() || c.init.endUnstarted(killedStatus()) {
		return
	}
	select {
	case <-c.init.settled: // it has been started
	case <-c.init.exited:
		return
	}
	c.log.Warn("the container's process on the host was killed: so is the container", "pid", c.anchor.PID())
	if err := c.init.Kill(context.Background(), uint32(unix.SIGKILL), false); err != nil && !errdefs.IsNotFound(err) {
		c.log.Warn("it cannot be killed", "error", err)
	}
}

// endAnchor ends what stands for the container on the host, as its init has ended.
func (c *Container) endAnchor() {
	ctx, cancel := context.WithTimeout(context.Background(), anchorGrace)
	defer cancel()
	if err := c.anchor.Stop(ctx); err != nil {
		c.log.Warn("anchor not stopped", "error", err)
	}
}

// finish brings a process that started to its end: what it wrote is delivered if its reader keeps up, and the container's other
// processes have ended before init has. Output of others who hold its streams open is not waited for.
func (p *Process) finish(status ExitStatus) {
	times := newTrace()
	done := times.stage("start")
	<-p.settled // its streams are joined, or its start failed
	done()
	done = times.stage("output")
	p.streams.closeInput()
	lost := p.container.sandbox.isLost()
	if lost {
		p.streams.cut()
	}
	p.streams.drain(context.Background(), p.container.sandbox.drainLimit(exitDrain), lost)
	done()
	if p.isInit() {
		done := times.stage("execs")
		p.container.finishExecs()
		done()
		done = times.stage("anchor")
		p.container.endAnchor()
		done()
	}
	p.container.mu.Lock()
	started := p.life.state == processRunning
	if started {
		p.setStopped(status)
	}
	p.container.mu.Unlock()
	if !started {
		return
	}
	if p.isInit() {
		p.container.sandbox.addPart(PartExit, times)
		p.container.note()
	}
	close(p.exited)
	p.container.log.Info("process ended", "exec", p.id, "code", status.Code, "reason", status.Reason, "oom", status.OOM)
}

// stop ends the process with that status. The caller holds the container's lock.
func (p *Process) stop(status ExitStatus) {
	p.setStopped(status)
	close(p.exited)
}

// setStopped is stop, but that nobody is told yet. The caller holds the container's lock, and then closes exited.
func (p *Process) setStopped(status ExitStatus) {
	p.life.mustMove(processStopped)
	p.exit = status
}

// finishExecs waits for the ends of the execs that were started. Init's end killed them; of those of which the agent says
// nothing in time it is taken for granted.
func (c *Container) finishExecs() {
	c.mu.Lock()
	var execs []*Process
	for _, p := range c.execs {
		if p.life.in(processStarting, processRunning) {
			execs = append(execs, p)
		}
	}
	c.mu.Unlock()
	grace := time.NewTimer(execGrace)
	defer grace.Stop()
	for _, p := range execs {
		select {
		case <-p.exited:
		case <-grace.C:
			grace.Reset(0) // for those that follow
			c.log.Warn("the guest does not report the end of a process", "exec", p.id)
			p.abandon()
		}
	}
}

// abandon ends a process that its container's end must have killed.
func (p *Process) abandon() {
	p.container.mu.Lock()
	defer p.container.mu.Unlock()
	if p.life.state == processRunning {
		p.ending = true
		p.stop(killedStatus())
	}
}
