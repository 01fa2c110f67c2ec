package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/limpet-run/limpet/guest/protocol"
)

// killOnSignal has the fake guest end a process that is sent a signal, as the agent does.
func (w *world) killOnSignal() {
	w.fakeGuest.answer = func(_ context.Context, message protocol.HostMessage) (protocol.GuestMessage, error) {
		if signal, ok := message.(protocol.Signal); ok {
			w.events.Exit(protocol.Exit{RequestID: signal.RequestID, Code: 128 + signal.Signal, Reason: "killed"})
		}
		return nil, nil
	}
}

// TestAnchorEndsWithInit: from a process's exit on its pid on the host is free.
func TestAnchorEndsWithInit(t *testing.T) {
	w := newTestSandbox(t)
	container := w.run(t, IO{})
	w.events.Exit(protocol.Exit{RequestID: container.Init().request, Reason: "exited"})
	waitExit(t, container.Init())
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", container.Init().PID())); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the anchor lives: %v", err)
	}
}

// TestAnchorKilled: who kills the process of a container on the host kills the container.
func TestAnchorKilled(t *testing.T) {
	for name, started := range map[string]bool{"running": true, "created": false} {
		t.Run(name, func(t *testing.T) {
			w := newTestSandbox(t)
			w.killOnSignal()
			container := w.create(t, IO{})
			if started {
				if err := container.Init().Start(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if err := syscall.Kill(container.Init().PID(), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if status := waitExit(t, container.Init()); status.Code != 137 || status.Reason != "killed" {
				t.Errorf("got %+v", status)
			}
			if _, err := container.Delete(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}
