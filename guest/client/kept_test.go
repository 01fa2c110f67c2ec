package client

import (
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/limpet-run/limpet/guest/protocol"
)

// TestKeptStreamIsNotRedialledWithoutPause has a guest that ends each connection of a stream as soon as it has said a byte.
func TestKeptStreamIsNotRedialledWithoutPause(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		const span, willing = time.Second, 1000
		var dialled atomic.Int64
		go func() {
			for range willing {
				host, guest := net.Pipe()
				select {
				case w.transport.dials <- host:
				case <-t.Context().Done():
					return
				}
				_ = guest.SetDeadline(time.Now().Add(30 * time.Second))
				if _, err := protocol.ReadPreamble(guest); err != nil {
					return // the stream is over
				}
				dialled.Add(1)
				_ = protocol.WriteStatus(guest, nil)
				_, _ = guest.Write([]byte{'x'})
				_ = guest.Close()
			}
		}()
		output, err := w.Session.OpenOutput(t.Context(), protocol.NewToken())
		if err != nil {
			t.Fatal(err)
		}
		_ = output.SetReadDeadline(time.Now().Add(span))
		_, _ = io.Copy(io.Discard, output)
		if n, most := dialled.Load(), int64(span/minRedial)+1; n < 2 || n > most {
			t.Errorf("%d connections in %s, want at most %d", n, span, most)
		}
		_ = output.Close()
		time.Sleep(time.Minute) // of the bubble's: until the last connection is given up
	})
}
