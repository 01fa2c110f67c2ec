package container

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestDropped(t *testing.T) {
	const head = "Name:\tsh\nNSpid:\t77\t1\n"
	for _, test := range []struct {
		name, status string
		signal       unix.Signal
		want         bool
	}{
		{"no handler", head + "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nSigCgt:\t0000000000000000\n", unix.SIGTERM, true},
		{"another handler", head + "SigCgt:\t0000000000000002\n", unix.SIGTERM, true},
		{"handler", head + "SigCgt:\t0000000000004000\n", unix.SIGTERM, false},
		{"blocked", head + "SigBlk:\t0000000000004000\n", unix.SIGTERM, false},
		{"ignored", head + "SigIgn:\t0000000000004000\n", unix.SIGTERM, false},
		{"highest", head + "SigCgt:\t8000000000000000\n", 64, false},
		{"no signal", head, 0, false},
		{"kill", head, unix.SIGKILL, false},
		{"stop", head, unix.SIGSTOP, false},
		{"not the first of its namespace", "NSpid:\t77\t12\n", unix.SIGTERM, false},
		{"in the guest's own namespace", "NSpid:\t1\n", unix.SIGTERM, false},
		{"unknown", "", unix.SIGTERM, false},
	} {
		if got := dropped(test.status, test.signal); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}
