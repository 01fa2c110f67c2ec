package egress

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

const (
	// minLifetime is how long an address is admitted at least: programs connect a moment after they have asked, and again later, without
	// a new question.
	minLifetime = time.Minute
	// maxAdmitted is how many addresses are admitted at the same time. A gate has room for as many of each family.
	maxAdmitted = 4096
)

// Gate lets addresses through. Its methods wait for the kernel only.
type Gate interface {
	Admit(addresses []netip.Addr) error
	Expel(addresses []netip.Addr) error
}

// admission is what is admitted at a guest's gates, and until when.
type admission struct {
	log *slog.Logger

	mu     sync.Mutex // held while the kernel is told
	gates  map[Gate]bool
	until  map[netip.Addr]time.Time
	timer  *time.Timer // nil: nothing is admitted
	closed bool
}

func newAdmission(log *slog.Logger) *admission {
	return &admission{log: log, gates: map[Gate]bool{}, until: map[netip.Addr]time.Time{}}
}

// add tells one more gate.
func (a *admission) add(gate Gate) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := gate.Admit(slices.Collect(maps.Keys(a.until))); err != nil {
		return err
	}
	a.gates[gate] = true
	return nil
}

// remove tells a gate nothing more.
func (a *admission) remove(gate Gate) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.gates, gate)
}

// admit admits addresses for so long, or longer. errdefs.ErrResourceExhausted: there are too many.
func (a *admission) admit(addresses []netip.Addr, lifetime time.Duration) error {
	end := time.Now().Add(max(lifetime, minLifetime))
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return fmt.Errorf("admit addresses: %w", errdefs.ErrUnavailable)
	}
	var fresh []netip.Addr
	for _, address := range addresses {
		if _, known := a.until[address]; !known && !slices.Contains(fresh, address) {
			fresh = append(fresh, address)
		}
	}
	if len(a.until)+len(fresh) > maxAdmitted {
		return fmt.Errorf("admit %d more addresses: %d are admitted, which are all that there can be: %w", len(fresh), len(a.until),
			errdefs.ErrResourceExhausted)
	}
	if err := a.tell(fresh); err != nil {
		return err
	}
	for _, address := range addresses {
		if end.After(a.until[address]) {
			a.until[address] = end
		}
	}
	a.schedule()
	return nil
}

// tell has all gates admit addresses, or none.
func (a *admission) tell(fresh []netip.Addr) error {
	if len(fresh) == 0 {
		return nil
	}
	var told []Gate
	for gate := range a.gates {
		if err := gate.Admit(fresh); err != nil {
			for _, gate := range told {
				err = errors.Join(err, gate.Expel(fresh))
			}
			return err
		}
		told = append(told, gate)
	}
	return nil
}

// schedule has expire called when the next address is to go.
func (a *admission) schedule() {
	if a.timer != nil {
		a.timer.Stop()
		a.timer = nil
	}
	if len(a.until) > 0 && !a.closed {
		first := slices.MinFunc(slices.Collect(maps.Values(a.until)), time.Time.Compare)
		a.timer = time.AfterFunc(time.Until(first), a.expire)
	}
}

// expire expels what has been admitted for long enough.
func (a *admission) expire() {
	a.mu.Lock()
	defer a.mu.Unlock()
	var over []netip.Addr
	now := time.Now()
	for address, end := range a.until {
		if !end.After(now) {
			over = append(over, address)
			delete(a.until, address)
		}
	}
	var errs []error
	if len(over) > 0 {
		for gate := range a.gates {
			errs = append(errs, gate.Expel(over))
		}
	}
	if err := errors.Join(errs...); err != nil {
		a.log.Warn("addresses can still be reached that should not any more", "addresses", over, "error", err)
	}
	a.schedule()
}

// close ends all of it.
func (a *admission) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	a.schedule()
	clear(a.until)
	clear(a.gates)
}
