package streams

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
)

// TestPatience waits for connections of kept streams: an input's first may come late, an output's not, and no second one.
func TestPatience(t *testing.T) {
	for name, test := range map[string]struct {
		claim     func(*Server, protocol.Token) error
		connected bool // there was a connection
		late      bool // one that comes after absenceTimeout is taken
	}{
		"output": {func(s *Server, token protocol.Token) error {
			_, err := s.Output(context.Background(), token, true)
			return err
		}, false, false},
		"input": {func(s *Server, token protocol.Token) error {
			_, err := s.Input(context.Background(), token, true)
			return err
		}, false, true},
		"input again": {func(s *Server, token protocol.Token) error {
			_, err := s.Input(context.Background(), token, true)
			return err
		}, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := New(slog.New(slog.DiscardHandler), &fakeGuest{})
				token := protocol.NewToken()
				if err := test.claim(s, token); err != nil {
					t.Fatal(err)
				}
				slot := s.keptSlot(token, false)
				offer := func() {
					conn, other := net.Pipe()
					t.Cleanup(func() { other.Close() })
					slot.offer(keptConn{conn, 0})
				}
				if test.connected {
					offer()
					if _, _, err := slot.next(t.Context(), 0); err != nil {
						t.Fatal(err)
					}
				}
				time.AfterFunc(absenceTimeout+time.Second, offer)
				_, _, err := slot.next(t.Context(), 0)
				if test.late && err != nil || !test.late && !errdefs.IsUnavailable(err) {
					t.Errorf("a late connection: %v", err)
				}
				time.Sleep(2 * time.Second) // the timer is over
			})
		})
	}
}
