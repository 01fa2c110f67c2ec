package runtime

import (
	"context"
	"time"

	"github.com/limpet-run/limpet/guest/protocol"
)

const (
	// maxClockDelay is how long the setting of the guest's clock may take: the clock is behind by no more than that.
	maxClockDelay = 40 * time.Millisecond
	// clockTries is how often it is set again at once if it takes longer, as on a busy host, and lateClockTries how often after that, with
	// clockPause before each.
	clockTries, lateClockTries = 5, 30
	clockPause                 = time.Second
)

// settleClock sets the guest's clock again if the setting at the beginning of the session took long: until it has been set swiftly, or a
// few times. If that does not help it goes on while the sandbox is used. No start fails for a clock that is somewhat behind.
func (s *Sandbox) settleClock(ctx context.Context) {
	delay := s.guest.ClockDelay()
	for range clockTries {
		if delay <= maxClockDelay {
			return
		}
		delay = s.setClock(ctx)
	}
	if delay > maxClockDelay {
		go s.settleClockLate()
	}
}

func (s *Sandbox) settleClockLate() {
	for range lateClockTries {
		select {
		case <-time.After(clockPause):
		case <-s.lost:
			return
		}
		if s.setClock(context.Background()) <= maxClockDelay {
			return
		}
	}
	s.log.Warn("this host is busy: the guest's clock may be behind")
}

// setClock sets the guest's clock and returns how long that took. What keeps the guest from it shows elsewhere.
func (s *Sandbox) setClock(ctx context.Context) time.Duration {
	began := time.Now()
	if err := s.sendClock(ctx); err != nil {
		s.log.Debug("the guest's clock is not set", "error", err)
		return callTimeout
	}
	return time.Since(began)
}

// sendClock tells the guest what time it is.
func (s *Sandbox) sendClock(ctx context.Context) error {
	_, err := s.call(ctx, callTimeout, protocol.SetClock{UnixNano: time.Now().UnixNano()})
	return err
}
