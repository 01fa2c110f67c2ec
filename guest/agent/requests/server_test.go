package requests

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/limpet-run/limpet/guest/protocol"
)

const ping = `{"method":"ping"}`

func TestPing(t *testing.T) {
	c := newGuest(t).dial()
	if got := c.ask(ping); got != (protocol.PongResponse{Version: protocol.Version}) {
		t.Errorf("ping: %+v", got)
	}
}

// TestTraceID has the answers and the log say which trace a request is of.
func TestTraceID(t *testing.T) {
	g := newGuest(t)
	c := g.dial()
	c.say(`{"trace_id":"abc","method":"ping"}`)
	if got := c.hearEnvelope(); got.TraceID == nil || *got.TraceID != "abc" {
		t.Errorf("traced ping: %+v", got)
	}
	c.say(`{"trace_id":"def","method":"vm_exec","command":["true"]}`)
	if got := c.hearEnvelope(); got.TraceID == nil || *got.TraceID != "def" {
		t.Errorf("traced vm_exec: %+v", got)
	}
	c.say(ping)
	if got := c.hearEnvelope(); got.TraceID != nil {
		t.Errorf("ping without a trace: %+v", got)
	}
	if log := g.log.String(); !strings.Contains(log, "method=vm_exec trace_id=def") {
		t.Errorf("the log does not tell of the trace: %s", log)
	}
}

// TestNonsense has the connection live on after each message that makes no sense.
func TestNonsense(t *testing.T) {
	c := newGuest(t).dial()
	for _, message := range []string{
		"", "{", "null", "[]", `{"method":"dance"}`, `{"method":"pull"}`, `{"method":"ping","method":"ping"}`, "\xff",
		`{"method":"vm_exec","command":[]}`, `{"method":"vm_exec","command":["true"],"timeout_ms":0}`,
		`{"method":"vm_exec","command":["true"],"background":true,"tty":true}`,
		`{"method":"vm_exec","command":["true"],"env":[["A=B","C"]]}`, `{"method":"vm_exec","command":["true"],"workdir":"tmp"}`,
		`{"method":"stdin","data":""}`, `{"method":"resize","cols":80,"rows":25}`, `{"method":"file_write_chunk","data":"","done":true}`,
	} {
		wantError(t, c.ask(message), protocol.CodeInvalidRequest)
	}
	if _, ok := c.ask(ping).(protocol.PongResponse); !ok {
		t.Error("the connection does not live")
	}
}

// TestTooLarge sends a message that is too large, and one that only says so and is gone.
func TestTooLarge(t *testing.T) {
	g := newGuest(t)
	c := g.dial()
	const size = protocol.MaxPayload + 1
	header := binary.BigEndian.AppendUint32(nil, size)
	if _, err := c.Write(header); err != nil {
		t.Fatal(err)
	}
	wantError(t, c.hear(), protocol.CodeMessageTooLarge)
	if _, err := io.Copy(c, bytes.NewReader(make([]byte, size))); err != nil {
		t.Fatal(err)
	}
	if _, ok := c.ask(ping).(protocol.PongResponse); !ok {
		t.Error("the connection does not live")
	}
	liar := g.dial()
	if _, err := liar.Write([]byte{0xff, 0xff, 0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	wantError(t, liar.hear(), protocol.CodeMessageTooLarge)
	liar.Close()
	if _, ok := g.dial().ask(ping).(protocol.PongResponse); !ok {
		t.Error("the server does not live")
	}
}

// TestLargeMessages has one large message be read at a time.
func TestLargeMessages(t *testing.T) {
	g := newGuest(t)
	const size = largeMessage + 1
	large := append([]byte(ping), bytes.Repeat([]byte(" "), size-len(ping))...)
	first, second := g.dial(), g.dial()
	if _, err := first.Write(binary.BigEndian.AppendUint32(nil, size)); err != nil {
		t.Fatal(err)
	}
	g.await("the first one is being read", func() bool { return len(g.server.large) == 1 })
	go func() {
		if err := protocol.WriteMessage(second, large); err != nil {
			t.Error(err)
		}
	}()
	if _, ok := g.dial().ask(ping).(protocol.PongResponse); !ok {
		t.Error("a small message waits for a large one")
	}
	if err := second.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the second one was read: %v", err)
	}
	if err := second.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Write(large); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*client{first, second} {
		if _, ok := c.hear().(protocol.PongResponse); !ok {
			t.Error("not answered")
		}
	}
}

// TestSilentClients has more clients than there may be connections say nothing, or not all that they announce: whoever speaks is served.
func TestSilentClients(t *testing.T) {
	g := newGuest(t)
	silent := []*client{}
	for i := range maxConns + 8 {
		c := g.dial()
		if i%2 == 1 {
			if _, err := c.Write([]byte{0, 0, 1}); err != nil {
				t.Fatal(err)
			}
		}
		silent = append(silent, c)
	}
	c := g.dial()
	for range 3 {
		if _, ok := c.ask(ping).(protocol.PongResponse); !ok {
			t.Fatal("not served")
		}
	}
	if _, err := silent[0].Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the client that was silent longest: %v, want the end", err)
	}
}

// TestManyClients has clients work at once, each with its own order.
func TestManyClients(t *testing.T) {
	g := newGuest(t)
	const clients, rounds = 8, 5
	done := make(chan error)
	for i := range clients {
		c := g.dial()
		go func() {
			for round := range rounds {
				text := fmt.Sprintf("%d-%d", i, round)
				answer := c.ask(fmt.Sprintf(`{"method":"vm_exec","command":["echo","%s"]}`, text))
				if completed, ok := answer.(protocol.CompletedResponse); !ok || string(completed.Stdout) != text+"\n" {
					done <- fmt.Errorf("client %d, round %d: %s", i, round, show(answer))
					return
				}
			}
			done <- nil
		}()
	}
	for range clients {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestInOrder sends requests ahead of their answers.
func TestInOrder(t *testing.T) {
	c := newGuest(t).dial()
	c.say(`{"method":"vm_exec","command":["sh","-c","sleep 0.2; echo first"]}`)
	c.say(ping)
	c.say(`{"method":"query"}`)
	if answer := c.hear(); !isCompleted(answer, 0, "first\n") {
		t.Errorf("the first answer is not the first request's: %s", show(answer))
	}
	if _, ok := c.hear().(protocol.PongResponse); !ok {
		t.Error("the second answer is not the second request's")
	}
	wantError(t, c.hear(), protocol.CodeInvalidRequest)
}

func TestShutdown(t *testing.T) {
	g := newGuest(t)
	if got, ok := g.dial().ask(`{"method":"shutdown"}`).(protocol.OKResponse); !ok {
		t.Errorf("shutdown: %+v", got)
	}
	select {
	case <-g.down:
	case <-time.After(10 * time.Second):
		t.Error("nothing is shut down")
	}
}
