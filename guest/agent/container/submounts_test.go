package container

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/limpet-run/limpet/guest/protocol"
)

// TestRemoveWhilePreparing has a host that gives up a preparation: the removal comes while it goes on, and the id is free after that.
func TestRemoveWhilePreparing(t *testing.T) {
	share := t.TempDir()
	if err := os.MkdirAll(filepath.Join(share, "c1", "rootfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	mounting, mounted := make(chan struct{}), make(chan struct{})
	set := NewSet(Options{
		Logger: slog.New(slog.DiscardHandler), Dir: t.TempDir(), CgroupRoot: t.TempDir(), Share: share,
		MountShare: func(context.Context) error {
			close(mounting)
			<-mounted
			return nil
		},
	})
	prepare := func() error {
		return set.Prepare(t.Context(), protocol.Prepare{ContainerID: "c1", Rootfs: "c1/rootfs"})
	}
	preparing, removing := make(chan error), make(chan error)
	go func() { preparing <- prepare() }()
	<-mounting
	go func() { removing <- set.Remove(protocol.Remove{ContainerID: "c1"}) }()
	select {
	case err := <-removing:
		t.Errorf("removed before it was prepared: %v", err)
	default:
	}
	close(mounted)
	for _, done := range []chan error{preparing, removing} {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if err := prepare(); err != nil {
		t.Error(err)
	}
}
