package dns

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
)

const testTimeout = 10 * time.Second

// host answers questions with its connection's kind and the question; "last" ends the connection after the answer, "silence" has none.
type host struct {
	silent chan struct{} // told of each silence
	mu     sync.Mutex
	conns  int // that were opened
}

func (h *host) dial(context.Context) (net.Conn, error) {
	h.mu.Lock()
	h.conns++
	h.mu.Unlock()
	guest, conn := net.Pipe()
	go func() {
		defer conn.Close()
		kind := make([]byte, 1)
		if _, err := io.ReadFull(conn, kind); err != nil {
			return
		}
		for {
			question, err := protocol.ReadDNS(conn, protocol.MaxQuestion)
			if err != nil {
				return
			}
			if string(question) == "silence" {
				h.silent <- struct{}{}
				continue
			}
			if err := protocol.WriteDNS(conn, append(kind, question...)); err != nil || string(question) == "last" {
				return
			}
		}
	}()
	return guest, nil
}

// start serves on a free port of loopback.
func start(t *testing.T, dial func(context.Context) (net.Conn, error)) sockets {
	t.Helper()
	all, err := listen(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(all.close)
	New(nil, slog.New(slog.DiscardHandler)).serve(all, dial)
	return all
}

func TestUDP(t *testing.T) {
	for _, packets := range start(t, new(host).dial).packets {
		client, err := net.Dial("udp", packets.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		client.SetDeadline(time.Now().Add(testTimeout))
		for _, question := range []string{"one", "last", "two"} {
			if _, err := client.Write([]byte(question)); err != nil {
				t.Fatal(err)
			}
			answer := make([]byte, 100)
			n, err := client.Read(answer)
			if err != nil || string(answer[:n]) != string(protocol.ResolverDatagrams)+question {
				t.Errorf("%s: %q, %v", question, answer[:n], err)
			}
		}
	}
}

func TestTCP(t *testing.T) {
	for _, listener := range start(t, new(host).dial).listeners {
		client, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		client.SetDeadline(time.Now().Add(testTimeout))
		for _, question := range []string{"one", "last", "two"} {
			if err := protocol.WriteDNS(client, []byte(question)); err != nil {
				t.Fatal(err)
			}
			answer, err := protocol.ReadDNS(client, 100)
			if err != nil || string(answer) != string(protocol.ResolverStream)+question {
				t.Errorf("%s: %q, %v", question, answer, err)
			}
		}
		if err := protocol.WriteDNS(client, make([]byte, protocol.MaxQuestion+1)); err != nil {
			t.Fatal(err)
		}
		if _, err := protocol.ReadDNS(client, 100); err == nil {
			t.Error("a question that is too long was answered")
		}
	}
}

// TestPool uses connections again, asks no more than its size at once, and gives up.
func TestPool(t *testing.T) {
	h := host{silent: make(chan struct{})}
	p := newPool(protocol.ResolverDatagrams, 2, h.dial)
	for range 3 {
		if answer, err := p.exchange(t.Context(), []byte("x")); err != nil || !bytes.Equal(answer, []byte("\x00x")) {
			t.Fatal(answer, err)
		}
	}
	if h.conns != 1 {
		t.Errorf("%d connections for one question at a time", h.conns)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	for range 2 {
		go func() {
			_, err := p.exchange(ctx, []byte("silence"))
			ended <- err
		}()
	}
	for range 2 {
		<-h.silent
	}
	late, cancelLate := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancelLate()
	if _, err := p.exchange(late, []byte("x")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a third question: %v", err)
	}
	cancel()
	for range 2 {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("a question without an answer: %v", err)
		}
	}
	if answer, err := p.exchange(t.Context(), []byte("x")); err != nil {
		t.Errorf("after all: %q, %v", answer, err)
	}
	broken := newPool(0, 1, func(context.Context) (net.Conn, error) { return nil, io.ErrUnexpectedEOF })
	if _, err := broken.exchange(t.Context(), nil); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a host that does not listen: %v", err)
	}
}

// TestResolve listens once.
func TestResolve(t *testing.T) {
	taken, err := listen(0)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.close()
	port := taken.packets[0].LocalAddr().(*net.UDPAddr).Port
	if _, err := listen(uint16(port)); err == nil {
		t.Error("listens at a port that is taken")
	}
	s := New(nil, slog.New(slog.DiscardHandler))
	s.at = protocol.Resolver{Port: 6002, Token: protocol.Token{1}}
	if err := s.Resolve(s.at); err != nil {
		t.Error(err)
	}
	for _, other := range []protocol.Resolver{{Port: 6003, Token: protocol.Token{1}}, {Port: 6002, Token: protocol.Token{2}}} {
		if err := s.Resolve(other); !errdefs.IsAlreadyExists(err) {
			t.Errorf("another port or token: %v", err)
		}
	}
}
