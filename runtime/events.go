package runtime

import (
	"time"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/internal/printable"
)

// events takes what the agent says unasked, in its order. See client.Handler. The guest is not trusted: what names something
// unknown is passed over, and nothing it says is used but after a look.
type events struct{ sandbox *Sandbox }

// Exit says that a process has ended.
func (e events) Exit(exit protocol.Exit) {
	process := e.sandbox.process(exit.RequestID)
	if process == nil {
		e.sandbox.log.Warn("the guest reports the exit of an unknown process", "request", exit.RequestID)
		return
	}
	process.ended(exitStatus(exit, time.Now()))
}

// StreamEnd says how many bytes an output carries.
func (e events) StreamEnd(end protocol.StreamEnd) {
	if process := e.sandbox.process(end.RequestID); process != nil {
		process.streams.end(end.Stream, end.Bytes)
	}
}

// Event says that something happened to a container.
func (e events) Event(event protocol.Event) {
	if event.Kind != "oom" {
		return
	}
	if container, err := e.sandbox.Container(event.ContainerID); err == nil {
		container.log.Warn("out of memory")
		e.sandbox.observer.OOM(container.id)
	}
}

const (
	// unknownExit is the code of a process of whose end nothing is known. Shells and containerd use 255 so.
	unknownExit = 255
	// maxReason bounds the reason of an exit: the longest that the agent gives is "start failed".
	maxReason = 64
)

// exitStatus is what the agent says of an exit, put right: a code that no process can have is unknownExit, a time that is
// not believable is now, a reason is short and printable.
func exitStatus(exit protocol.Exit, now time.Time) ExitStatus {
	status := ExitStatus{Code: unknownExit, At: now, OOM: exit.OOM, Reason: printable.Short(exit.Reason, maxReason)}
	if exit.Code >= 0 && exit.Code <= 255 {
		status.Code = uint32(exit.Code)
	}
	// The guest's clock was set from this one when the agent said hello.
	if at := time.Unix(0, exit.ExitedAt); exit.ExitedAt > 0 && at.Before(now) && now.Sub(at) < time.Hour {
		status.At = at
	}
	return status
}
