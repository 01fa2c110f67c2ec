package machine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestUseProcessors(t *testing.T) {
	dir := t.TempDir()
	files := map[string]string{
		"cpu0/topology/x": "", "cpu1/online": "1\n", "cpu2/online": "0\n", "cpu10/online": "0\n", "cpuidle/online": "0\n", "online": "0-1\n",
	}
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		count, running uint64
		states         string // of cpu1, cpu2 and cpu10
	}{
		{0, 2, "100"}, {2, 2, "100"}, {3, 3, "101"}, {1, 3, "101"}, {4, 4, "111"}, {9, 4, "111"},
	} {
		running, err := useProcessors(dir, test.count)
		if err != nil || running != test.running {
			t.Errorf("%d wanted: %d run, %v; want %d", test.count, running, err, test.running)
		}
		states := ""
		for _, name := range []string{"cpu1", "cpu2", "cpu10"} {
			state, err := os.ReadFile(filepath.Join(dir, name, "online"))
			if err != nil {
				t.Fatal(err)
			}
			states += strings.TrimSpace(string(state))
		}
		if states != test.states {
			t.Errorf("%d wanted: they are %s, want %s", test.count, states, test.states)
		}
	}
	if _, err := useProcessors(filepath.Join(dir, "none"), 1); err == nil {
		t.Error("no error where there are no processors")
	}
}

func TestMemoryAdded(t *testing.T) {
	for name, test := range map[string]struct {
		content string
		want    uint64
	}{
		"none": {"00001000-0009fbff : System RAM\n", 0},
		"two spans": {`00100000-0fffffff : System RAM
140000000-1bfffffff : virtio0
  140000000-147ffffff : System RAM (virtio_mem)
  150000000-15fffffff : System RAM (virtio_mem)
`, 128<<20 + 256<<20},
		"broken": {"x-y : System RAM (virtio_mem)\n2-1 : System RAM (virtio_mem)\n : System RAM (virtio_mem)\n", 0},
	} {
		if got := memoryAdded([]byte(test.content)); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}
