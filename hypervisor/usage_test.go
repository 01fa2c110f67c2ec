package hypervisor

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestUsage(t *testing.T) {
	self, err := NewProcess("self", os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	usage, err := self.Usage()
	if err != nil || usage.Memory < 1<<20 || usage.Memory > 1<<30 || usage.CPU < 0 || usage.CPU > time.Hour {
		t.Errorf("got %+v, %v", usage, err)
	}
	self.StartTime++
	if usage, err := self.Usage(); err == nil {
		t.Errorf("of another process: %+v", usage)
	}
}

func TestParsePSS(t *testing.T) {
	for _, test := range []struct {
		text string
		want uint64
		ok   bool
	}{
		{"00400000-7ffe [rollup]\nRss:   9 kB\nPss:        12345 kB\nPss_Dirty: 1 kB\n", 12345 << 10, true},
		{"Rss: 9 kB\n", 0, false},
		{"Pss: many kB\n", 0, false},
		{"", 0, false},
	} {
		if got, err := parsePSS(strings.NewReader(test.text)); got != test.want || (err == nil) != test.ok {
			t.Errorf("%q: got %d, %v", test.text, got, err)
		}
	}
}

func TestParseCPU(t *testing.T) {
	for _, test := range []struct {
		stat string
		want time.Duration
		ok   bool
	}{
		{"7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 7 8 20", 2 * time.Second, true},
		{"7 (sh) S 1 7 7", 0, false},
		{"7 (sh) S 1 7 7 0 -1 4194560 1 2 3 4 x 50 7 8 20", 0, false},
	} {
		if got, err := parseCPU(test.stat); test.ok && got != test.want || (err == nil) != test.ok {
			t.Errorf("%q: got %s, %v", test.stat, got, err)
		}
	}
}
