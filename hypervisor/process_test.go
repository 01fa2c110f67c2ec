package hypervisor

import (
	"os"
	"testing"
)

func TestParseStartTime(t *testing.T) {
	for _, test := range []struct {
		name, stat string
		want       uint64
		ok         bool
	}{
		{"plain", "7 (sh) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 1234 99 98", 1234, true},
		{"name like fields", "7 (a) b) (c 1) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 1234", 1234, true},
		{"short", "7 (sh) S 1 7 7", 0, false},
		{"empty", "", 0, false},
	} {
		if got, err := parseStartTime(test.stat); got != test.want || (err == nil) != test.ok {
			t.Errorf("%s: got %d, %v", test.name, got, err)
		}
	}
}

func TestNewProcess(t *testing.T) {
	self, err := NewProcess("test", os.Getpid())
	if err != nil || self.StartTime == 0 {
		t.Errorf("got %+v, %v", self, err)
	}
	if _, err := NewProcess("none", 1<<30); err == nil {
		t.Error("a process that cannot be")
	}
}
