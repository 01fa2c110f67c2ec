package runtime

import (
	"net"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/runtime/oci"
)

// TestStopTellsTheGuest looks for what the guest is told at the end of a sandbox: nothing if nothing in it has an end to come to.
func TestStopTellsTheGuest(t *testing.T) {
	create := func(t *testing.T, w *world, id string) *Container {
		t.Helper()
		container, err := w.CreateContainer(t.Context(), ContainerOptions{ID: id, Bundle: w.bundle})
		if err != nil {
			t.Fatal(err)
		}
		return container
	}
	remove := func(t *testing.T, container *Container) {
		t.Helper()
		if _, err := container.Delete(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		do      func(t *testing.T, w *world)
		removed []string // containers
		stopped bool
	}{
		"a container was deleted": {func(t *testing.T, w *world) { remove(t, create(t, w, "a")) }, nil, false},
		"a container is left":     {func(t *testing.T, w *world) { create(t, w, "a") }, nil, true},
		"there was no container":  {func(*testing.T, *world) {}, nil, true},
		"two were deleted": {func(t *testing.T, w *world) {
			a, b := create(t, w, "a"), create(t, w, "b")
			remove(t, b)
			remove(t, a)
		}, []string{"b"}, false},
		"one after the other": {func(t *testing.T, w *world) {
			remove(t, create(t, w, "a"))
			remove(t, create(t, w, "a"))
		}, []string{"a"}, false},
		"it had a disk": {func(t *testing.T, w *world) {
			container := create(t, w, "a")
			container.plan.Disks = []oci.Disk{{}}
			remove(t, container)
		}, []string{"a"}, false},
		"there was a visitor": {func(t *testing.T, w *world) {
			container := create(t, w, "a")
			visitor, err := net.Dial("unix", filepath.Join(w.dir.path, AgentDoor))
			if err != nil {
				t.Fatal(err)
			}
			defer visitor.Close()
			if _, err := visitor.Read(make([]byte, 1)); err != nil { // he is in
				t.Fatal(err)
			}
			remove(t, container)
		}, []string{"a"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTestSandbox(t)
			test.do(t, w)
			var removed []string
			for _, message := range got[protocol.Remove](w.fakeGuest) {
				removed = append(removed, message.ContainerID)
			}
			if !reflect.DeepEqual(removed, test.removed) {
				t.Errorf("removed %v, want %v", removed, test.removed)
			}
			if err := w.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			if stopped := len(got[protocol.Stop](w.fakeGuest)) > 0; stopped != test.stopped {
				t.Errorf("the guest was told to stop: %v", stopped)
			}
		})
	}
}
