package runtime

import (
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestCommonBinds has containers of a pod with directories of the host: those that they have in the same way are one in the share, for as
// long as the sandbox lives.
func TestCommonBinds(t *testing.T) {
	needRoot(t)
	path := podNetwork(t)
	w, _ := newTestPod(t, path)
	dir := t.TempDir()
	plain, full, part, file := filepath.Join(dir, "plain"), filepath.Join(dir, "full"), filepath.Join(dir, "volume-subpaths/v/c/0"),
		filepath.Join(dir, "file")
	for _, each := range []string{plain, filepath.Join(full, "below"), part} {
		if err := os.MkdirAll(each, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(file, []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", filepath.Join(full, "below"), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(filepath.Join(full, "below"), 0); err != nil {
			t.Error(err)
		}
	})
	binds := []specs.Mount{
		{Source: plain, Options: []string{"rbind"}},
		{Source: plain, Options: []string{"rbind", "ro"}},
		{Source: plain, Options: []string{"rbind", "rslave"}},
		{Source: full, Options: []string{"rbind"}},
		{Source: part, Options: []string{"rbind"}},
		{Source: file, Options: []string{"bind"}},
	}
	create := func(id string) (*Container, []string) {
		t.Helper()
		bundle := writeBundle(t, func(spec *specs.Spec) {
			joined(path)(spec)
			for i, bind := range binds {
				bind.Type, bind.Destination = "bind", filepath.Join("/data", string(rune('a'+i)))
				spec.Mounts = append(spec.Mounts, bind)
			}
		})
		c, err := w.CreateContainer(t.Context(), ContainerOptions{ID: id, Bundle: bundle})
		if err != nil {
			t.Fatal(err)
		}
		var links []string // empty: the container's own
		for _, bind := range c.plan.Binds {
			link, _ := os.Readlink(filepath.Join(w.dir.share(), id, "mounts", bind.Name))
			links = append(links, link)
		}
		return c, links
	}
	first, links := create("c1")
	want := []string{"../../.common/1", "../../.common/2", "../../.common/3", "", "", ""}
	for i := range binds {
		if links[i] != want[i] {
			t.Errorf("%v is %q, want %q", binds[i], links[i], want[i])
		}
	}
	if err := os.WriteFile(filepath.Join(plain, "note"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for place, bind := range binds[:3] {
		if _, err := os.Stat(filepath.Join(w.dir.share(), "c1", "mounts", links[place], "note")); err != nil {
			t.Errorf("%v does not lead to its source: %v", bind, err)
		}
	}
	if err := os.Remove(filepath.Join(w.dir.share(), ".common/2/note")); err == nil {
		t.Error("the read-only one can be written to")
	}
	if _, err := first.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, again := create("c2"); again[0] != links[0] || again[1] != links[1] || again[2] != links[2] || again[3] != "" {
		t.Errorf("another container has %q, the first one had %q", again, links)
	}
	lone := newTestSandbox(t)
	lone.bundle = writeBundle(t, func(spec *specs.Spec) {
		spec.Mounts = append(spec.Mounts, specs.Mount{Type: "bind", Source: plain, Destination: "/data", Options: []string{"rbind"}})
	})
	lone.create(t, IO{})
	if _, err := os.Stat(filepath.Join(lone.dir.share(), commonDir)); err == nil {
		t.Error("a lone container has something in common")
	}
}
