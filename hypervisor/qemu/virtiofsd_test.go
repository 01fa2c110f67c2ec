package qemu

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestVirtiofsdKind(t *testing.T) {
	for version, want := range map[string]virtiofsdKind{
		"virtiofsd version 7.2.22 (Debian 1:7.2)\nCopyright\nusing FUSE kernel interface version 7.36\n": virtiofsdC,
		"virtiofsd 1.13.0\n":         virtiofsdRust,
		"virtiofsd backend 1.10.1\n": virtiofsdRust,
	} {
		if got := virtiofsdKindOf(version); got != want {
			t.Errorf("%q: got %s", version, got)
		}
	}
}

func TestVirtiofsdArguments(t *testing.T) {
	for _, test := range []struct {
		kind virtiofsdKind
		dir  string
		want []string
	}{
		{virtiofsdC, "/a,b", []string{
			"--fd=3", "--rlimit-nofile=1024", "-o", `source=/a\,b`, "-o",
			"cache=always,timeout=1,sandbox=namespace,xattr,announce_submounts,log_level=warn",
		}},
		{virtiofsdRust, "/a,b", []string{
			"--fd=3", "--rlimit-nofile=1024", "--shared-dir=/a,b", "--cache=auto", "--sandbox=namespace", "--xattr", "--announce-submounts",
			"--log-level=warn",
		}},
	} {
		if got := virtiofsdArguments(test.kind, test.dir, 1024); !slices.Equal(got, test.want) {
			t.Errorf("%s: got %q, want %q", test.kind, got, test.want)
		}
	}
}

func TestFindVirtiofsd(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	none := filepath.Join(t.TempDir(), "none")
	if _, err := findVirtiofsd(none); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), none) {
		t.Errorf("got %v", err)
	}
}
