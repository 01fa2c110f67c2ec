package shim

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestSocketPath(t *testing.T) {
	path, err := socketPath("", "/run/containerd/containerd.sock", "k8s.io", "c1")
	if err != nil || filepath.Dir(path) != "/run/containerd/s" || len(filepath.Base(path)) != 64 {
		t.Errorf("%s, %v", path, err)
	}
	for _, other := range [][3]string{
		{"/run/other.sock", "k8s.io", "c1"},
		{"/run/containerd/containerd.sock", "moby", "c1"},
		{"/run/containerd/containerd.sock", "k8s.io", "c2"},
	} {
		if another, err := socketPath("", other[0], other[1], other[2]); err != nil || another == path {
			t.Errorf("%q has the same socket: %v", other, err)
		}
	}
	longest := "/" + strings.Repeat("d", maxSocketPath-1-1-64)
	if path, err := socketPath(longest, "a", "n", "c"); err != nil || len(path) != 106 {
		t.Errorf("%d bytes, %v", len(path), err)
	}
	if _, err := socketPath(longest+"d", "a", "n", "c"); err == nil {
		t.Error("a path that is too long was taken")
	}
}
