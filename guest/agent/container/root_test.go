package container

import (
	"io/fs"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

// TestRoots are of the containers that run, the one that was started first to begin with.
func TestRoots(t *testing.T) {
	h := newHost(t)
	names := func() (names []string) {
		t.Helper()
		for _, root := range h.set.Roots() {
			defer root.Close()
			fd, err := unix.Openat(int(root.Fd()), "dev", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			dev := os.NewFile(uintptr(fd), "dev") // which the container alone has mounted
			defer dev.Close()
			entries, err := dev.ReadDir(0)
			if err != nil {
				t.Fatal(err)
			}
			for _, entry := range entries {
				if entry.Type() == 0 && entry.Name() != "null" {
					names = append(names, entry.Name())
				}
			}
			if !slices.ContainsFunc(entries, func(entry fs.DirEntry) bool { return entry.Name() == "null" }) {
				t.Error("a root is not as its container sees it")
			}
		}
		return names
	}
	var tasks []*task
	for _, id := range []string{"second", "first"} {
		k := h.run(id, h.spec("sh", "-c", "echo >/dev/"+id+"; echo ready; cat"))
		k.expect("ready")
		tasks = append(tasks, k)
	}
	h.prepare("none")
	if got := names(); !slices.Equal(got, []string{"second", "first"}) {
		t.Errorf("roots of %q", got)
	}
	if err := h.set.Pause(t.Context(), protocol.Pause{ContainerID: "second"}); err != nil {
		t.Fatal(err)
	}
	if got := names(); !slices.Equal(got, []string{"first"}) {
		t.Errorf("roots of %q while the other is paused", got)
	}
	tasks[1].stdin.Close()
	tasks[1].wait()
	if got := names(); len(got) != 0 {
		t.Errorf("roots of %q after the end", got)
	}
}
