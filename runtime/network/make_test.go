package network

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestMake(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	path := filepath.Join(t.TempDir(), "netns")
	if err := Make(path); err != nil {
		t.Fatal(err)
	}
	if err := Make(path); err == nil {
		t.Error("made twice")
	}
	made, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer made.Close()
	if own, err := made.IsOwn(); err != nil || own {
		t.Errorf("the namespace is the program's own: %v, %v", own, err)
	}
	in(t, made, func() error {
		loopback, err := netlink.LinkByName("lo")
		if err == nil && loopback.Attrs().Flags&net.FlagUp == 0 {
			t.Error("its loopback is down")
		}
		return err
	})
	for range 2 {
		if err := Unmake(path); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("left: %v", err)
	}
}

func TestMakeFails(t *testing.T) {
	if err := Make(filepath.Join(t.TempDir(), "no", "netns")); err == nil {
		t.Error("made in a directory that is not there")
	}
}
