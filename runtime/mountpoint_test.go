package runtime

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/limpet-run/limpet/runtime/oci"
)

func TestCheckMountPoints(t *testing.T) {
	root, host := t.TempDir(), t.TempDir()
	for _, dir := range []string{"etc", "tmp", "data"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(host, "file")
	for _, name := range []string{filepath.Join(root, "etc/passwd"), file} {
		if err := os.WriteFile(name, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"link": "/etc/passwd", "outside": "/../../../../../../../../proc", "covered": "/data/x"} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(root, "data/x"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		source, destination string
		want                string // in the error; empty: none
	}{
		{host, "/tmp", ""},
		{file, "/etc/passwd", ""},
		{file, "/etc/new", ""},
		{host, "/new/below", ""},
		{file, "/tmp", "mount on /tmp: " + file + " is a file, and the container's file system has a directory there"},
		{file, "tmp/", "is a file"},
		{host, "/etc/passwd", "mount on /etc/passwd: " + host + " is a directory, and the container's file system has a file there"},
		{host, "/link", "has a file there"},
		{file, "/outside", ""},
		{file, "/data/x", ""}, // below another mount
		{file, "/covered", ""},
		{filepath.Join(host, "none"), "/tmp", ""},
	} {
		binds := []oci.Bind{{Source: test.source, Destination: test.destination}}
		spec := &specs.Spec{Mounts: []specs.Mount{{Destination: "/data"}, {Destination: test.destination}}}
		err := checkMountPoints(root, spec, binds)
		if test.want == "" && err != nil {
			t.Errorf("%s on %s: %v", test.source, test.destination, err)
		}
		if test.want != "" && (!errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s on %s: got %v, want %s", test.source, test.destination, err, test.want)
		}
	}
	twice := &specs.Spec{Mounts: []specs.Mount{{Destination: "/tmp"}, {Destination: "/tmp"}}}
	if err := checkMountPoints(root, twice, []oci.Bind{{Source: file, Destination: "/tmp"}}); err != nil {
		t.Errorf("over another mount: %v", err)
	}
}
