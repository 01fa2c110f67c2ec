package client

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
)

func TestDataIsGivenByName(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		g, _ := w.connect()
		for name, want := range map[string]string{"resolv.conf": "nameserver ::1", "shadow": ""} {
			g.notify(protocol.DataRequest{Name: name})
			in := g.readCommand()
			given, ok := in.Message.(protocol.Data)
			if !ok || given.Name != name || string(given.Content) != want || (given.Error == nil) != (want != "") {
				t.Errorf("%s: %+v", name, in.Message)
			}
			g.respond(in, protocol.OK{})
		}
		for range 3 * maxAsked { // without reading an answer: it does not stop the session
			g.notify(protocol.DataRequest{Name: "shadow"})
		}
		synctest.Wait()
		g.readCommand()
	})
}

// TestAskingFloodsNoLog has a guest that asks without end.
func TestAskingFloodsNoLog(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var log bytes.Buffer
		w.logger = slog.New(slog.NewTextHandler(&log, nil))
		g, _ := w.connect()
		const times = 100
		for range times {
			g.notify(protocol.DataRequest{Name: "shadow"})
			g.respond(g.readCommand(), protocol.OK{})
		}
		synctest.Wait()
		if lines := strings.Count(log.String(), "shadow"); lines == 0 || lines > warningsPerSecond {
			t.Errorf("%d lines of log for %d questions, want at most %d", lines, times, warningsPerSecond)
		}
		g.notify(protocol.DataRequest{Name: strings.Repeat("x", maxAskedName+1)})
		if in, err := g.Read(); err == nil {
			t.Errorf("a name that is too long is answered with %T", in.Message)
		}
		synctest.Wait()
		if log.Len() > 16<<10 {
			t.Errorf("%d bytes of log", log.Len())
		}
	})
}

func TestCallGivenUpIsCancelled(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		g, _ := w.connect()
		ctx, cancel := context.WithTimeout(protocol.WithTraceID(t.Context(), "trace"), time.Second)
		defer cancel()
		call := background(func() error { return w.Do(ctx, protocol.Pause{}) })
		given := g.read()
		if err := <-call; !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		in := g.read()
		if in.Message != (protocol.Cancel{CallID: given.CallID}) || given.TraceID != "trace" || in.TraceID != "trace" {
			t.Errorf("%+v came after %+v", in, given)
		}
		if err := g.WriteError(t.Context(), given, &protocol.Error{Message: "cancelled", Code: protocol.CodeCancelled}); err != nil {
			t.Error(err) // which nobody waits for
		}
		g.respond(in, protocol.OK{})
	})
}

func TestCancelledIsAKindOfError(t *testing.T) {
	err := error(&protocol.Error{Message: "cancelled", Code: protocol.CodeCancelled})
	if !errors.Is(err, context.Canceled) || errdefs.IsInternal(err) {
		t.Error(err)
	}
}
