package machine

import "testing"

func TestExcess(t *testing.T) {
	const large = "MemFree: 9 kB\nActive(anon): 99999999 kB\nActive(file):  32768 kB\nInactive(file):     4 kB\n"
	for _, test := range []struct {
		name    string
		meminfo string
		busy    uint64
		want    uint64
	}{
		{"idle", large, 100, 4 << 10},
		{"busy", large, 101, 0},
		{"after a start of its clock", large, 1<<64 - 5, 0},
		{"little", "Active(file): 32000 kB\nInactive(file): 768 kB\n", 0, 0},
		{"nothing", "", 0, 0},
	} {
		if got := excess([]byte(test.meminfo), test.busy); got != test.want {
			t.Errorf("%s: got %d, want %d", test.name, got, test.want)
		}
	}
}

func TestBusyTicks(t *testing.T) {
	for stat, want := range map[string]uint64{
		"cpu  1 20 300 4000 50000 600000 7000000 80000000 900000000 1000000000\ncpu0 9 9 9 9\n": 87600321,
		"cpu 1 2 3 4":   6,
		"":              0,
		"nonsense\nx":   0,
		"cpu a 2 3 4\n": 5,
	} {
		if got := busyTicks([]byte(stat)); got != want {
			t.Errorf("%q: got %d, want %d", stat, got, want)
		}
	}
}
