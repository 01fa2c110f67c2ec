package egress

import (
	"errors"
	"log/slog"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
)

func addresses(texts ...string) []netip.Addr {
	var list []netip.Addr
	for _, text := range texts {
		list = append(list, netip.MustParseAddr(text))
	}
	return list
}

// TestAdmission lets addresses go when their time is over, which a later answer may make longer, and never shorter.
func TestAdmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdmission(slog.New(slog.DiscardHandler))
		defer a.close()
		gate := new(fakeGate)
		expect := func(when, want string) {
			t.Helper()
			synctest.Wait()
			if got := gate.list(); got != want {
				t.Errorf("%s: admitted %q, want %q", when, got, want)
			}
		}
		admit := func(lifetime time.Duration, texts ...string) {
			t.Helper()
			if err := a.admit(addresses(texts...), lifetime); err != nil {
				t.Fatal(err)
			}
		}
		admit(time.Second, "192.0.2.1", "192.0.2.1")
		if err := a.add(gate); err != nil {
			t.Fatal(err)
		}
		expect("a gate that comes later", "192.0.2.1")
		admit(10*time.Minute, "192.0.2.2", "2001:db8::1")
		admit(2*time.Minute, "192.0.2.1", "192.0.2.2")
		time.Sleep(minLifetime + time.Second)
		expect("after a minute", "192.0.2.1 192.0.2.2 2001:db8::1")
		time.Sleep(time.Minute)
		expect("after two", "192.0.2.2 2001:db8::1")
		admit(0, "192.0.2.3")
		time.Sleep(time.Minute)
		expect("after three", "192.0.2.2 2001:db8::1")
		time.Sleep(7 * time.Minute)
		expect("after ten", "")
		admit(0, "192.0.2.3")
		a.remove(gate)
		admit(0, "192.0.2.4")
		expect("a gate that was removed", "192.0.2.3")
	})
}

func TestAdmissionLimits(t *testing.T) {
	a := newAdmission(slog.New(slog.DiscardHandler))
	first, second := new(fakeGate), new(fakeGate)
	for _, gate := range []*fakeGate{first, second} {
		if err := a.add(gate); err != nil {
			t.Fatal(err)
		}
	}
	second.refuse = errors.New("broken")
	if err := a.admit(addresses("192.0.2.1"), 0); err == nil || first.list() != "" || len(a.until) != 0 {
		t.Errorf("a gate that fails: %v, %q, %v", err, first.list(), a.until)
	}
	second.refuse = nil
	var many []netip.Addr
	for i := range maxAdmitted {
		many = append(many, netip.AddrFrom4([4]byte{1, 2, byte(i >> 8), byte(i)}))
	}
	if err := a.admit(many, 0); err != nil {
		t.Fatal(err)
	}
	if err := a.admit(addresses("192.0.2.1"), 0); !errdefs.IsResourceExhausted(err) {
		t.Errorf("too many: %v", err)
	}
	if err := a.admit(many[:1], 0); err != nil {
		t.Errorf("one that is admitted: %v", err)
	}
	a.close()
	if err := a.admit(many[:1], 0); !errdefs.IsUnavailable(err) {
		t.Errorf("after the end: %v", err)
	}
}
