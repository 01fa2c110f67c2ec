package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
)

func TestHandshake(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		start := time.Now()
		g, auth := w.connect()
		hello, err := w.WaitReady(t.Context())
		if err != nil || hello != testHello {
			t.Errorf("WaitReady = %+v, %v", hello, err)
		}
		if auth.Token != testToken || auth.ProtocolVersion != protocol.Version || auth.Ack != 0 ||
			len(auth.Entropy) != protocol.MaxEntropy || auth.Clock == nil || *auth.Clock < start.UnixNano() {
			t.Errorf("auth = %+v", auth)
		}
		synctest.Wait()
		closed := background(w.Close)
		if in := g.read(); in.Type != protocol.Notification || in.Message != (protocol.Bye{Reason: "closed by the host"}) {
			t.Errorf("%+v came, want bye", in)
		}
		if _, err := g.Read(); err != io.EOF {
			t.Errorf("after bye: %v", err)
		}
		if err := <-closed; err != nil {
			t.Error(err)
		}
		<-w.Done()
		if err := w.Do(t.Context(), protocol.Pause{}); !errdefs.IsUnavailable(err) {
			t.Errorf("call of a session that is over: %v", err)
		}
	})
}

// What goes wrong with a guest's first connection, and whether that is the end or the guest may try again.
func TestHandshakeRefused(t *testing.T) {
	answerAuth := func(answer func(*guest, protocol.Incoming[protocol.HostMessage])) func(*guest) {
		return func(g *guest) {
			g.notify(testHello)
			answer(g, g.read())
		}
	}
	tests := map[string]struct {
		guest func(*guest)
		final bool
		want  string
	}{
		"another version": {func(g *guest) {
			hello := testHello
			hello.ProtocolVersion = 9
			g.notify(hello)
		}, true, "speaks version 9 of the protocol, want 1"},
		"wrong token": {answerAuth(func(g *guest, in protocol.Incoming[protocol.HostMessage]) {
			_ = g.WriteError(g.Context(), in, fmt.Errorf("wrong token: %w", errdefs.ErrUnauthenticated))
		}), true, "wrong token"},
		"agent in trouble": {answerAuth(func(g *guest, in protocol.Incoming[protocol.HostMessage]) {
			_ = g.WriteError(g.Context(), in, errors.New("set clock: not permitted"))
		}), false, "set clock"},
		"another answer": {answerAuth(func(g *guest, in protocol.Incoming[protocol.HostMessage]) {
			g.respond(in, protocol.OK{})
		}), false, "OK came"},
		"no hello": {func(g *guest) { g.notify(protocol.Ready{}) }, false, "Ready came"},
		"nothing":  {func(g *guest) { time.Sleep(protocol.HandshakeTimeout) }, false, "i/o timeout"},
		"hangs up": {func(g *guest) { _ = g.Close() }, false, "EOF"},
		"not a frame": {func(g *guest) {
			_, _ = g.raw.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
		}, false, "version 18245"},
		"a payload above the limit": {func(g *guest) {
			_, _ = g.raw.Write([]byte{0, 2, 3, 0, 0, 0, 3, 0, 0, 0, 0x10, 1})
		}, false, "payload of 4097 bytes, want at most 4096"},
		"a payload that is shorter than it says": {func(g *guest) {
			_, _ = g.raw.Write(append([]byte{0, 2, 3, 0, 0, 0, 3, 0, 0, 0, 0, 99}, "{}"...))
		}, false, "i/o timeout"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				g := w.dial()
				test.guest(g)
				_ = g.drain()
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, err := w.WaitReady(ctx)
				if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), testToken) {
					t.Errorf("WaitReady: %v; want %q", err, test.want)
				}
				if test.final {
					<-w.Done()
					return
				}
				w.connect()
				if _, err := w.WaitReady(t.Context()); err != nil {
					t.Errorf("a second connection: %v", err)
				}
			})
		})
	}
}

func TestGuestThatNeverCalls(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if _, err := w.WaitReady(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "has not called") {
			t.Error(err)
		}
	})
}

func TestTransportFails(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.connect()
		call := background(func() error { return w.Do(t.Context(), protocol.Pause{}) })
		synctest.Wait()
		close(w.transport.accepts)
		if err := <-call; !errdefs.IsUnavailable(err) || !errors.Is(err, net.ErrClosed) {
			t.Errorf("call: %v", err)
		}
		<-w.Done()
	})
}

func TestCallErrorsHaveKinds(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		g, _ := w.connect()
		for _, want := range []error{errdefs.ErrNotFound, errdefs.ErrFailedPrecondition, errdefs.ErrNotImplemented, errdefs.ErrInternal} {
			call := background(func() error { return w.Do(t.Context(), protocol.Signal{RequestID: 5, Signal: 9}) })
			if err := g.WriteError(t.Context(), g.read(), fmt.Errorf("process 5: %w", want)); err != nil {
				t.Fatal(err)
			}
			if err := <-call; !errors.Is(err, want) || !strings.Contains(err.Error(), "guest signal: process 5") {
				t.Errorf("got %v, want %v", err, want)
			}
		}
	})
}

func TestCallsAreAnsweredInAnyOrder(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		g, _ := w.connect()
		start := func(request uint64) func() error {
			return func() error {
				answer, err := w.Call(t.Context(), protocol.Run{RequestID: request, Command: []string{"true"}})
				if want := (protocol.Started{RequestID: request}); err == nil && answer != want {
					return fmt.Errorf("answered with %v", answer)
				}
				return err
			}
		}
		first := background(start(1))
		run := g.read()
		second := background(start(2))
		g.respond(g.read(), protocol.Started{RequestID: 2})
		if err := <-second; err != nil {
			t.Error(err)
		}
		g.respond(run, protocol.Started{RequestID: 1})
		if err := <-first; err != nil {
			t.Error(err)
		}

		pause := background(func() error { return w.Do(t.Context(), protocol.Pause{}) })
		g.respond(g.read(), protocol.Started{})
		if err := <-pause; !errdefs.IsInternal(err) {
			t.Errorf("another kind of answer: %v", err)
		}
	})
}

func TestCallThatCannotBeWritten(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.connect()
		if err := w.Do(t.Context(), protocol.Mount{Source: "\xff"}); !errdefs.IsInvalidArgument(err) {
			t.Error(err)
		}
	})
}

func TestCallEndsWithItsContext(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.connect() // and reads nothing, so that even writing waits
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if err := w.Do(ctx, protocol.Pause{}); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

func TestCallsAreBounded(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for range protocol.MaxCalls {
			go func() { _ = w.Do(ctx, protocol.Pause{}) }()
		}
		synctest.Wait()
		if err := w.Do(ctx, protocol.Pause{}); !errdefs.IsResourceExhausted(err) {
			t.Error(err)
		}
	})
}

func TestBadAnswerEndsItsCallOnly(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		g, _ := w.connect()
		call := background(func() error { return w.Do(t.Context(), protocol.Pause{}) })
		in := g.read()
		header := protocol.Header{Type: protocol.Response, Opcode: in.Opcode, CallID: in.CallID}
		if err := protocol.NewWriter(g.raw).Write(header, []byte(`{"type":"no such"}`)); err != nil {
			t.Fatal(err)
		}
		if err := <-call; !errdefs.IsInternal(err) || errdefs.IsInvalidArgument(err) {
			t.Errorf("call: %v", err)
		}
		again := background(func() error { return w.Do(t.Context(), protocol.Resume{}) })
		g.respond(g.read(), protocol.OK{})
		if err := <-again; err != nil {
			t.Error(err)
		}
	})
}

func TestOpenStream(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		token := protocol.NewToken()
		serve := func(status error, data string) {
			host, guest := net.Pipe()
			w.transport.dials <- host
			go func() {
				defer guest.Close()
				p, err := protocol.ReadPreamble(guest)
				if err != nil || p != (protocol.Preamble{Kind: protocol.StreamProcess, Token: token}) {
					t.Errorf("preamble %+v, %v", p, err)
				}
				_ = protocol.WriteStatus(guest, status)
				_, _ = io.WriteString(guest, data)
			}()
		}
		serve(nil, "hi")
		conn, err := w.OpenStream(t.Context(), token)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * streamTimeout) // of fake time: the deadline for opening does not bind the stream
		if data, err := io.ReadAll(conn); err != nil || !bytes.Equal(data, []byte("hi")) {
			t.Errorf("read %q, %v", data, err)
		}
		_ = conn.Close()

		serve(errors.New("no such token"), "")
		if _, err := w.OpenStream(t.Context(), token); !errors.Is(err, protocol.ErrStreamRefused) ||
			strings.Contains(err.Error(), fmt.Sprintf("%x", token[:])) {
			t.Error(err)
		}

		if _, err := w.OpenStream(t.Context(), token); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("guest that does not answer the dial: %v", err)
		}
		mute, other := net.Pipe()
		defer other.Close()
		w.transport.dials <- mute
		if _, err := w.OpenStream(t.Context(), token); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("guest that says nothing: %v", err)
		}
	})
}

func TestDialDuplex(t *testing.T) {
	for _, test := range []struct {
		preamble protocol.Preamble
		dial     func(ctx context.Context, s *Session) (protocol.HalfCloser, error)
	}{
		{protocol.Preamble{Kind: protocol.StreamTCP, Port: 8080}, func(ctx context.Context, s *Session) (protocol.HalfCloser, error) {
			return s.DialPort(ctx, 8080)
		}},
		{protocol.Preamble{Kind: protocol.StreamUnix, Path: "/socket"}, func(ctx context.Context, s *Session) (protocol.HalfCloser, error) {
			return s.DialUnix(ctx, "/socket")
		}},
		{protocol.Preamble{Kind: protocol.StreamContainerdDuplex}, func(ctx context.Context, s *Session) (protocol.HalfCloser, error) {
			return s.DialContainerd(ctx)
		}},
	} {
		testDialDuplex(t, test.preamble, test.dial)
	}
}

func testDialDuplex(t *testing.T, preamble protocol.Preamble, dial func(context.Context, *Session) (protocol.HalfCloser, error)) {
	inWorld(t, func(t *testing.T, w *world) {
		// answer takes the host's next connection, wants a preamble, and answers.
		answer := func(want protocol.Preamble, status error) net.Conn {
			host, guest := net.Pipe()
			w.transport.dials <- host
			if p, err := protocol.ReadPreamble(guest); err != nil || p != want {
				t.Errorf("preamble %+v, %v", p, err)
			}
			_ = protocol.WriteStatus(guest, status)
			return guest
		}
		serve := func(status error) {
			out := answer(preamble, nil)
			defer out.Close()
			var token protocol.Token
			if _, err := io.ReadFull(out, token[:]); err != nil {
				t.Error(err)
			}
			in := answer(protocol.Preamble{Kind: protocol.StreamProcess, Token: token}, status)
			defer in.Close()
			if status == nil {
				duplex := protocol.NewDuplex(in, out)
				_, _ = io.Copy(duplex, duplex)
				_ = duplex.CloseWrite()
			}
		}
		go serve(nil)
		stream, err := dial(t.Context(), w.Session)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			_, err := io.WriteString(stream, "echo")
			if err := errors.Join(err, stream.CloseWrite()); err != nil {
				t.Error(err)
			}
		}()
		if got, err := io.ReadAll(stream); string(got) != "echo" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
		_ = stream.Close()
		go answer(preamble, errors.New("connection refused"))
		if _, err := dial(t.Context(), w.Session); !errors.Is(err, protocol.ErrStreamRefused) {
			t.Errorf("nobody listens: %v", err)
		}
		go serve(errors.New("no more"))
		if _, err := dial(t.Context(), w.Session); !errors.Is(err, protocol.ErrStreamRefused) {
			t.Errorf("the other half is refused: %v", err)
		}
	})
}
