package qemu

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/hypervisor"
)

func TestMemoryArguments(t *testing.T) {
	for _, test := range []struct {
		name      string
		arguments map[string]any
		want      string
	}{
		{"room", memoryObject(1024),
			`{"id":"added-memory-backend","qom-type":"memory-backend-memfd","share":true,"size":1073741824}`},
		{"first", memoryDevice("port2", 128).arguments,
			`{"bus":"port2","driver":"virtio-mem-pci","id":"added-memory","memdev":"added-memory-backend","requested-size":134217728}`},
		{"later", memoryRequest(0),
			`{"path":"/machine/peripheral/added-memory","property":"requested-size","value":0}`},
	} {
		if text, err := json.Marshal(test.arguments); err != nil || string(text) != test.want {
			t.Errorf("%s: got %s, %v; want %s", test.name, text, err, test.want)
		}
	}
}

func TestRoomForMemory(t *testing.T) {
	for _, test := range []struct{ memory, most, want int }{
		{256, 0, 0}, {256, 256, 0}, {256, 256 + 127, 0}, {200, 600, 384}, {256, 256 + 2048, 2048},
	} {
		config := hypervisor.Config{MemoryMiB: test.memory, MaxMemoryMiB: test.most}
		if got := roomForMemory(config); got != test.want {
			t.Errorf("from %d up to %d MiB: room for %d, want %d", test.memory, test.most, got, test.want)
		}
	}
}

// TestResizeMemory gives a running machine more memory, which its devices' daemons see too, and takes some back.
func TestResizeMemory(t *testing.T) {
	l := newLab(t)
	l.config.MaxVCPUs, l.config.MaxMemoryMiB = 4, 128+2048
	device := l.vsock()
	share := t.TempDir()
	write(t, filepath.Join(share, "file"), "text")
	m := l.boot()
	l.check(m.Plug(l.ctx, hypervisor.Vsock{ID: "vsock0", Socket: device}))
	l.check(m.Plug(l.ctx, hypervisor.Share{ID: "share0", Tag: "limpet", Dir: share}))
	if err := m.ResizeMemory(l.ctx, 128); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a paused machine: %v", err)
	}
	l.check(m.Resume(l.ctx))
	guest := l.greet(device)

	for _, added := range []int{-128, 1, 2048 + 128} {
		if err := m.ResizeMemory(l.ctx, added); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%d MiB: %v", added, err)
		}
	}
	for _, added := range []int{0, 256, 2048, 0, 1024} {
		began := time.Now()
		l.check(m.ResizeMemory(l.ctx, added))
		guest.ask(fmt.Sprintf("memory %d", added<<20), "ok")
		t.Logf("%d MiB: %s", added, time.Since(began).Round(time.Millisecond))
	}
	guest.ask("mount limpet", "ok")
	guest.ask("read /share/file", "text")

	began := time.Now()
	guest.ask("processors 4", "ok")
	t.Logf("4 processors: %s", time.Since(began).Round(time.Millisecond))
}
