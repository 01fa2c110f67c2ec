package client

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
)

// expect takes what the handler was told, in order.
func (w *world) expect(want ...any) {
	w.t.Helper()
	synctest.Wait()
	for _, m := range want {
		select {
		case got := <-w.told:
			if got != m {
				w.t.Errorf("told %+v, want %+v", got, m)
			}
		default:
			w.t.Fatalf("not told %+v", m)
		}
	}
	if len(w.told) > 0 {
		w.t.Errorf("told %+v besides", <-w.told)
	}
}

func exit(sequence uint64) protocol.Exit {
	return protocol.Exit{RequestID: 40 + sequence, Reason: "exited", Sequence: sequence}
}

func streamEnd(sequence uint64) protocol.StreamEnd {
	return protocol.StreamEnd{RequestID: 41, Stream: "stdout", Bytes: 5, Sequence: sequence}
}

func TestNoticesAreOrderedAndAcknowledged(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		g, _ := w.connect()
		oom := protocol.Event{Kind: "oom", ContainerID: "c"}
		g.notify(streamEnd(1))
		ack := g.read()
		if ack.Message != (protocol.Ack{Sequence: 1}) {
			t.Fatalf("%+v came, want an acknowledgement of 1", ack)
		}
		g.notify(oom)
		g.notify(exit(2))
		g.notify(exit(3))
		g.notify(exit(2)) // as if the acknowledgement had been lost
		w.expect(streamEnd(1), oom, exit(2), exit(3))
		g.respond(ack, protocol.OK{})
		if in := g.read(); in.Message != (protocol.Ack{Sequence: 3}) {
			t.Errorf("%+v came, want one acknowledgement of all", in)
		}
	})
}

func TestReconnectWithReplay(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		g, _ := w.connect()
		g.notify(streamEnd(1))
		g.notify(exit(2))
		w.expect(streamEnd(1), exit(2))
		_ = g.Close() // with both acknowledgements lost

		g, auth := w.connect()
		if auth.Ack != 2 {
			t.Errorf("auth acknowledges %d, want 2", auth.Ack)
		}
		for _, m := range []protocol.GuestMessage{streamEnd(1), exit(2), exit(3)} {
			g.notify(m)
		}
		w.expect(exit(3))
	})
}

func TestCallsSurviveReconnects(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		g, _ := w.connect()
		run := background(func() error { _, err := w.Call(t.Context(), protocol.Run{RequestID: 1}); return err })
		sent := g.read()
		_ = g.Close()
		synctest.Wait()
		exec := background(func() error { _, err := w.Call(t.Context(), protocol.Exec{RequestID: 2}); return err })
		synctest.Wait()

		g, _ = w.connect()
		again, queued := g.read(), g.read()
		if again.CallID != sent.CallID || again.Opcode != sent.Opcode {
			t.Errorf("sent again as %+v, was %+v", again, sent)
		}
		if queued.CallID == sent.CallID {
			t.Errorf("two calls have the id %d", sent.CallID)
		}
		g.respond(again, protocol.Started{RequestID: 1})
		g.respond(again, protocol.Started{RequestID: 1}) // once too often
		g.respond(queued, protocol.Started{RequestID: 2})
		if err := <-run; err != nil {
			t.Error(err)
		}
		if err := <-exec; err != nil {
			t.Error(err)
		}
	})
}

func TestConnectionsThatEnd(t *testing.T) {
	for name, end := range map[string]func(*guest){
		"bye":                    func(g *guest) { g.notify(protocol.Bye{Reason: "reload"}) },
		"a gap in the sequence":  func(g *guest) { g.notify(exit(2)) },
		"no sequence":            func(g *guest) { g.notify(exit(0)) },
		"a second hello":         func(g *guest) { g.notify(testHello) },
		"a command of the guest": func(g *guest) { _, _ = g.raw.Write([]byte{0, 2, 3, 0, 0, 0, 0, 1, 0, 0, 0, 0}) },
		"a length above the most": func(g *guest) {
			_, _ = g.raw.Write([]byte{0, 2, 3, 0, 0, 0, 3, 3, 2, 0, 0, 1})
		},
		"a length that is a lie": func(g *guest) {
			_, _ = g.raw.Write(append([]byte{0, 2, 3, 0, 0, 0, 3, 3, 2, 0, 0, 0}, "{}"...))
		},
		"silence": func(*guest) {},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				g, _ := w.connect()
				end(g)
				start := time.Now()
				if err := g.drain(); err != nil {
					t.Errorf("host did not close the connection: %v", err)
				}
				if name == "silence" && time.Since(start) != protocol.PingIdle+protocol.PingTimeout {
					t.Errorf("given up after %v", time.Since(start))
				}
				g, _ = w.connect()
				g.notify(exit(1))
				w.expect(exit(1))
			})
		})
	}
}

func TestAbsence(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		for range 2 {
			g, _ := w.connect()
			_ = g.Close()
			time.Sleep(absenceTimeout - time.Second)
		}
		select {
		case <-w.Done():
			t.Fatal("the session is over although the guest came back")
		default:
		}
		call := background(func() error { _, err := w.Call(t.Context(), protocol.Run{RequestID: 1}); return err })
		time.Sleep(time.Second)
		<-w.Done()
		if err := <-call; !errdefs.IsUnavailable(err) {
			t.Errorf("call to a guest that does not come back: %v", err)
		}
	})
}

func TestPingsKeepAnIdleSession(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		g, _ := w.connect()
		host := background(func() error { _, err := g.Read(); return err }) // answers pings, and sends its own
		time.Sleep(10 * time.Minute)
		select {
		case err := <-host:
			t.Fatalf("idle connection ended: %v", err)
		default:
		}
	})
}

func TestNewConnectionReplacesTheOld(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		old, _ := w.connect()
		stranger := w.dial()
		hello := testHello
		hello.BootID = "guess"
		stranger.notify(hello)
		if got, err := io.ReadAll(stranger.raw); err != nil || len(got) > 0 {
			t.Errorf("stranger was told %q, %v", got, err)
		}
		old.notify(exit(1)) // still in use
		w.expect(exit(1))

		g, auth := w.connect()
		if err := old.drain(); err != nil || auth.Ack != 1 {
			t.Errorf("old connection: %v; acknowledged %d", err, auth.Ack)
		}
		g.notify(exit(2))
		w.expect(exit(2))
	})
}

func TestFirstHelloSaysWhatIsAcknowledged(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.hello.LastAck = 7 // to another host process
		g, _ := w.connect()
		g.notify(exit(8))
		w.expect(exit(8))
	})
}

func TestDataRequestIsRefused(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		g, _ := w.connect()
		g.notify(protocol.DataRequest{Name: "/etc/shadow"})
		data, ok := g.readCommand().Message.(protocol.Data)
		if !ok || data.Name != "/etc/shadow" || data.Error == nil || len(data.Content) > 0 {
			t.Errorf("%+v came", data)
		}
	})
}
