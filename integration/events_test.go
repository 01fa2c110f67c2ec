package integration

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/integration/harness"
)

// topics returns the events' topics without "/tasks/".
func topics(events []harness.Event) []string {
	var topics []string
	for _, event := range events {
		topics = append(topics, event.Topic[len("/tasks/"):])
	}
	return topics
}

// eventTimeout is how long an event may take from a shim to a subscriber: milliseconds on an idle host.
const eventTimeout = 20 * time.Second

// await waits until a container has had events of the given topics in that order.
func (s *scope) await(recorder *harness.Recorder, container string, topics ...string) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, eventTimeout)
	defer cancel()
	s.must(recorder.Await(ctx, container, topics...))
}

// wantEvents waits for the end of a container's task, the event delete, and compares all of its events.
func (s *scope) wantEvents(recorder *harness.Recorder, container string, want ...string) {
	s.Helper()
	s.await(recorder, container, "delete")
	events, err := recorder.Of(s.ctx, container)
	s.must(err)
	if got := topics(events); !slices.Equal(got, want) {
		s.Errorf("events of %s:\n%s\nwant the topics %q", container, harness.Lines(events), want)
	}
}

// TestEventsOfInstantExit has processes that end at once. The event of the start comes first all the same.
func TestEventsOfInstantExit(t *testing.T) {
	s := begin(t)
	recorder := s.record()
	for range 5 {
		spec := s.spec([]string{"--rm", "--null-io"}, "true")
		s.must(daemon.Ctr(s.ctx, daemon.Args("run", spec)...).Err())
		s.wantEvents(recorder, spec.ID, "create", "start", "exit", "delete")
	}
}

func TestEventsOfExec(t *testing.T) {
	s := begin(t)
	recorder := s.record()
	c := s.sleeper()
	s.must(c.exec(nil, "true").Err())
	s.await(recorder, c.id, "exit")
	c.kill(unix.SIGKILL)
	c.wait("")
	c.deleteTask()
	s.wantEvents(recorder, c.id, "create", "start", "exec-added", "exec-started", "exit", "exit", "delete")

	events, err := recorder.Of(s.ctx, c.id)
	s.must(err)
	for i, want := range map[int]string{
		4: "/tasks/exit " + c.id + "/exec-2 0",
		5: "/tasks/exit " + c.id + " 137",
	} {
		if i < len(events) && events[i].String() != want {
			t.Errorf("event %d is %q, want %q", i, events[i], want)
		}
	}
}

// TestEventsWithoutStart deletes a task that was never started.
func TestEventsWithoutStart(t *testing.T) {
	s := begin(t)
	recorder := s.record()
	c := s.create(nil, "true")
	c.createTask(&tasks.CreateTaskRequest{})
	c.deleteTask()
	s.wantEvents(recorder, c.id, "create", "delete")
}

// TestKillOfUnread kills a process that waits for somebody to read its output, which nobody does.
func TestKillOfUnread(t *testing.T) {
	s := begin(t)
	recorder := s.record()
	path := s.fifo()
	c := s.create(nil, "yes")
	s.openFIFO(path)
	c.createTask(&tasks.CreateTaskRequest{Stdout: path, Stderr: path})
	c.startTask("")
	c.kill(unix.SIGKILL)
	if got := c.wait(""); got != 137 {
		t.Errorf("Wait says %d, want 137", got)
	}
	if got := c.deleteTask(); got != 137 {
		t.Errorf("Delete says %d, want 137", got)
	}
	s.wantEvents(recorder, c.id, "create", "start", "exit", "delete")
}
