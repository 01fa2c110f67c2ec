package runtime

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestProgramPlaces(t *testing.T) {
	for _, test := range []struct {
		program, cwd string
		env          []string
		want         []string
	}{
		{"/bin/sh", "/", nil, []string{"/bin/sh"}},
		{"./run", "/srv", nil, []string{"/srv/run"}},
		{"../run", "/", nil, []string{"/run"}},
		{"sh", "/", []string{"A=b", "PATH=/a:/b", "PATH=/c"}, []string{"/a/sh", "/b/sh"}},
		{"sh", "/srv", []string{"PATH=bin::/b"}, []string{"/srv/bin/sh", "/srv/sh", "/b/sh"}},
		{"sh", "/", nil, []string{
			"/usr/local/sbin/sh", "/usr/local/bin/sh", "/usr/sbin/sh", "/usr/bin/sh", "/sbin/sh", "/bin/sh",
		}},
	} {
		got := programPlaces(&specs.Process{Args: []string{test.program}, Cwd: test.cwd, Env: test.env})
		if !slices.Equal(got, test.want) {
			t.Errorf("%s in %s with %v: got %v", test.program, test.cwd, test.env, got)
		}
	}
}

func TestCheckProgram(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"bin", "opt", "srv"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, mode := range map[string]os.FileMode{"bin/tool": 0o755, "bin/text": 0o644} {
		if err := os.WriteFile(filepath.Join(root, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{
		"bin/absolute": "/bin/tool", "bin/relative": "tool", "bin/loop": "loop", "bin/outside": "../../../../../../../../bin/sh",
		"bin/volume": "/srv/tool",
	} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	found, missing, denied := error(nil), errdefs.ErrNotFound, errdefs.ErrPermissionDenied
	for program, want := range map[string]error{
		"tool": found, "/bin/tool": found, "absolute": found, "relative": found,
		"loop": missing, "outside": missing, "nothing": missing, "/nowhere/tool": missing,
		"text": denied, "/bin": denied,
		"/srv/tool": found, "volume": found, // who knows
	} {
		spec := &specs.Spec{
			Process: &specs.Process{Args: []string{program}, Cwd: "/", Env: []string{"PATH=/opt:/bin"}},
			Mounts:  []specs.Mount{{Destination: "/srv"}, {Destination: "/proc"}},
		}
		if err := checkProgram(root, spec); !errors.Is(err, want) {
			t.Errorf("%s: got %v", program, err)
		}
	}
}
