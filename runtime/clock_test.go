package runtime

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-run/limpet/guest/protocol"
)

// TestSettleClock sets a clock again until it has been set swiftly.
func TestSettleClock(t *testing.T) {
	const swift, slow = maxClockDelay, maxClockDelay + time.Millisecond
	for _, test := range []struct {
		name   string
		first  time.Duration   // of the handshake
		delays []time.Duration // of the settings to come; the last goes on
		want   int             // settings
		warned bool
	}{
		{"at once", swift, nil, 0, false},
		{"the second time", slow, []time.Duration{swift}, 1, false},
		{"the third time", slow, []time.Duration{slow, swift}, 2, false},
		{"later", slow, []time.Duration{slow, slow, slow, slow, slow, slow, swift}, clockTries + 2, false},
		{"never", slow, []time.Duration{slow}, clockTries + lateClockTries, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				count := 0
				guest := newFakeGuest()
				guest.clockDelay = test.first
				guest.answer = func(_ context.Context, message protocol.HostMessage) (protocol.GuestMessage, error) {
					if set, ok := message.(protocol.SetClock); !ok || set.UnixNano != time.Now().UnixNano() {
						t.Errorf("the guest is told %+v", message)
					}
					time.Sleep(test.delays[min(count, len(test.delays)-1)])
					count++
					return protocol.OK{}, nil
				}
				var log bytes.Buffer
				s := &Sandbox{guest: guest, lost: make(chan struct{}), log: slog.New(slog.NewTextHandler(&log, nil))}
				s.settleClock(t.Context())
				time.Sleep(2 * lateClockTries * clockPause)
				synctest.Wait()
				if count != test.want {
					t.Errorf("%d settings, want %d", count, test.want)
				}
				if warned := strings.Contains(log.String(), "may be behind"); warned != test.warned {
					t.Errorf("log: %s", log.String())
				}
			})
		})
	}
}
