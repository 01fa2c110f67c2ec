package protocol

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
)

// conns returns both ends of a session's connection, in memory and fake time.
func conns(t *testing.T) (host *HostConn, guest *GuestConn) {
	a, b := net.Pipe()
	host, guest = NewHostConn(a), NewGuestConn(b)
	t.Cleanup(func() {
		_ = host.Close()
		_ = guest.Close()
	})
	return host, guest
}

func authenticated(t *testing.T) (host *HostConn, guest *GuestConn) {
	host, guest = conns(t)
	host.Authenticated()
	guest.Authenticated()
	return host, guest
}

// send runs a write, which waits until the other end reads.
func send(t *testing.T, write func() error) {
	go func() {
		if err := write(); err != nil {
			t.Error(err)
		}
	}()
}

func TestConnCarriesMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		host, guest := authenticated(t)
		send(t, func() error { return host.WriteCommand(WithTraceID(ctx, "trace"), 7, Pause{ContainerID: "c"}) })
		command, err := guest.Read()
		if err != nil || command.Type != Command || command.CallID != 7 || command.Message != (Pause{ContainerID: "c"}) ||
			command.TraceID != "trace" {
			t.Errorf("%+v, %v", command, err)
		}
		send(t, func() error { return guest.WriteResponse(ctx, command, OK{}) })
		answer, err := host.Read()
		if err != nil || answer.Type != Response || answer.CallID != 7 || answer.Opcode != command.Opcode || answer.Message != (OK{}) {
			t.Errorf("%+v, %v", answer, err)
		}
		send(t, func() error {
			return guest.WriteError(ctx, command, fmt.Errorf("container c: %w", errdefs.ErrNotFound))
		})
		answer, err = host.Read()
		if err != nil || answer.Error == nil || answer.Error.Code != CodeNotFound || answer.Message != nil || answer.CallID != 7 {
			t.Errorf("%+v, %v", answer, err)
		}
		if err := host.WriteNotification(ctx, 0, Pause{}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("a command as a notification: %v", err)
		}
		if err := host.WriteCommand(ctx, 1, Bye{}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("a notification as a command: %v", err)
		}
		_ = guest.Close()
		if _, err := host.Read(); err != io.EOF {
			t.Errorf("at the end: %v", err)
		}
	})
}

func TestConnBadPayloads(t *testing.T) {
	for name, test := range map[string]struct {
		header  Header
		payload string
	}{
		"not JSON":             {Header{Type: Command, Opcode: 1}, "}"},
		"another message":      {Header{Type: Command, Opcode: 1}, `{"type":"pause","container_id":"c"}`},
		"another notification": {Header{Type: Notification, Opcode: 8}, `{"type":"ack","sequence":1}`},
		"bad error":            {Header{Type: Response, Error: true}, `{"msg":1}`},
		"stream frame":         {Header{Type: Stream}, "x"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				host, guest := authenticated(t)
				send(t, func() error { return NewWriter(host.conn).Write(test.header, []byte(test.payload)) })
				if in, err := guest.Read(); !errorIsPayload(err) || in.Type != test.header.Type || in.Opcode != test.header.Opcode {
					t.Errorf("%+v, %v", in, err)
				}
				send(t, func() error { return host.WriteCommand(t.Context(), 1, Resume{}) })
				if in, err := guest.Read(); err != nil || in.Message != (Resume{}) {
					t.Errorf("after it: %+v, %v", in, err)
				}
			})
		})
	}
}

func errorIsPayload(err error) bool {
	_, ok := errors.AsType[*PayloadError](err)
	return ok
}

func TestConnLimitsBeforeAuth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, guest := conns(t)
		large := Auth{Token: Secret(strings.Repeat("x", MaxPayloadBeforeAuth))}
		go func() { _ = host.WriteCommand(t.Context(), 1, large) }()
		if in, err := guest.Read(); !errdefs.IsInvalidArgument(err) || errorIsPayload(err) {
			t.Errorf("%+v, %v", in.Type, err)
		}
		_, guest = conns(t)
		start := time.Now()
		if _, err := guest.Read(); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != HandshakeTimeout {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

func TestConnKeepsAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, guest := authenticated(t)
		ends := make(chan error, 2)
		go func() { _, err := host.Read(); ends <- err }()
		go func() { _, err := guest.Read(); ends <- err }()
		time.Sleep(time.Hour)
		if len(ends) > 0 {
			t.Fatalf("idle connection ended: %v", <-ends)
		}
		_ = guest.Close()
		<-ends
		<-ends
	})
}

func TestConnGivesUpOnSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, guest := authenticated(t)
		go func() { _, _ = io.Copy(io.Discard, guest.conn) }()
		start := time.Now()
		if _, err := host.Read(); !errdefs.IsUnavailable(err) || time.Since(start) != PingIdle+PingTimeout {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

func TestConnRefusesFalsePongs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, guest := authenticated(t)
		send(t, func() error {
			return guest.WriteResponse(t.Context(), Incoming[HostMessage]{Opcode: commandOpcodes["ping"]}, Pong{Data: 3})
		})
		if in, err := host.Read(); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v, %v", in, err)
		}
	})
}

func TestConnStuckWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, _ := authenticated(t)
		first := make(chan error, 1)
		go func() { first <- host.WriteCommand(t.Context(), 1, Pause{}) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := host.WriteCommand(ctx, 2, Pause{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a write that waits: %v", err)
		}
		if err := <-first; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a write that nobody reads: %v", err)
		}
		if err := host.WriteCommand(t.Context(), 3, Pause{}); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("after half a frame: %v", err)
		}
	})
}
