package runtime

import (
	"context"
	"time"

	"github.com/limpet-run/limpet/guest/protocol"
)

const (
	// maxClockDelay is how long the setting of the guest's clock may take: the clock is behind by no more than that.
	maxClockDelay = 40 * time.Millisecond
	// clockTries is how often it is set again if it takes longer, as on a busy host.
	clockTries = 5
)

// settleClock sets the guest's clock again if the setting at the beginning of the session took long: until it has been set swiftly, or a
// few times. No start fails for a clock that is somewhat behind.
func (s *Sandbox) settleClock(ctx context.Context) {
	delay := s.guest.ClockDelay()
	for tries := 0; delay > maxClockDelay; tries++ {
		if tries == clockTries {
			s.log.Warn("this host is busy: the guest's clock may be behind", "ms", delay.Milliseconds())
			return
		}
		began := time.Now()
		if _, err := s.call(ctx, callTimeout, protocol.SetClock{UnixNano: began.UnixNano()}); err != nil {
			s.log.Warn("the guest's clock may be behind", "error", err)
			return
		}
		delay = time.Since(began)
	}
}
