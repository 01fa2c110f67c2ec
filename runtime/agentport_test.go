package runtime

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-run/limpet/guest/protocol"
)

// TestAgentListener accepts the agent while others dial, who are hung up on.
func TestAgentListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		guest := &fakeGuest{ports: map[uint32]*fakeListener{}}
		inner, err := guest.Listen(protocol.DNSPort)
		if err != nil {
			t.Fatal(err)
		}
		listener := newAgentListener(inner, slog.New(slog.DiscardHandler))
		defer listener.Close()
		dial := func(begin []byte) net.Conn {
			conn, err := guest.dialHost(protocol.DNSPort)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			go conn.Write(begin)
			return conn
		}
		began := time.Now()
		strange := protocol.NewToken()
		var strangers []net.Conn
		for range maxTokenWaits - 3 {
			strangers = append(strangers, dial(nil))
		}
		strangers = append(strangers, dial(listener.token[:31]))
		wrong := dial(append(strange[:], protocol.ResolverStream))
		dial(append(listener.token[:], "hello"...))
		conn, err := listener.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := wrong.Read(make([]byte, 1)); err == nil {
			t.Error("a stranger is answered")
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("the agent waited %v", took)
		}
		for _, stranger := range strangers {
			if _, err := stranger.Read(make([]byte, 1)); err == nil {
				t.Error("who says no token is answered")
			}
		}
		if took := time.Since(began); took != agentTokenTimeout {
			t.Errorf("who says no token is hung up on after %v", took)
		}
		said := make([]byte, 5)
		if _, err := io.ReadFull(conn, said); err != nil || string(said) != "hello" {
			t.Errorf("the agent said %q, %v", said, err)
		}
		open, late := dial(nil), dial(listener.token[:])
		synctest.Wait()
		for range 2 {
			if err := listener.Close(); err != nil {
				t.Error(err)
			}
		}
		for _, conn := range []net.Conn{open, late} {
			if _, err := conn.Read(make([]byte, 1)); err == nil {
				t.Error("a connection that nobody took outlives the listener")
			}
		}
		if _, err := listener.Accept(t.Context()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept after the close: %v", err)
		}
	})
}
