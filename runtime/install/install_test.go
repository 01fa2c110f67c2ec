package install

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/runtime/config"
)

// tree is a root in the making.
type tree struct {
	*testing.T
	root string
}

func newTree(t *testing.T) tree { return tree{t, t.TempDir()} }

func (t tree) write(path, text string, mode fs.FileMode) {
	t.Helper()
	path = filepath.Join(t.root, path)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), mode)); err != nil {
		t.Fatal(err)
	}
}

// files are the texts of all files, by their path below the root.
func (t tree) files() map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(t.root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		files[strings.TrimPrefix(path, t.root)] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func (t tree) want(files map[string]string) {
	t.Helper()
	got := t.files()
	for path, text := range files {
		if got[path] != text {
			t.Errorf("%s: got %q, want %q", path, got[path], text)
		}
	}
	for path := range got {
		if _, ok := files[path]; !ok {
			t.Errorf("%s is there", path)
		}
	}
}

// source is a root with limpet's files.
func source(t *testing.T) tree {
	t.Helper()
	from := newTree(t)
	for _, change := range installed() {
		from.write(change.Path, "limpet's "+filepath.Base(change.Path), change.Mode)
	}
	return from
}

// options are those for a host without a containerd to ask.
func options(root, from tree) Options {
	return Options{Root: root.root, From: from.root, ContainerdConfig: mainPath, Address: "/run/containerd.sock", SkipDoctor: true}
}

// lines keeps what is reported.
type lines []string

func (l *lines) report(verb, text string) { *l = append(*l, verb+" "+text) }

func (l lines) contain(text string) bool { return strings.Contains(strings.Join(l, "\n"), text) }

// TestInstall installs, once more, and removes, on a host with a containerd that is not in sight.
func TestInstall(t *testing.T) {
	const before = "version = 3\n"
	root, from := newTree(t), source(t)
	root.write(mainPath, before, 0o600)
	root.write("/etc/limpet/config.toml", "[vm]\nvcpus = 2\n", 0o644)

	dry := options(root, from)
	dry.DryRun = true
	var planned lines
	if err := Install(t.Context(), dry, planned.report); err != nil {
		t.Fatal(err)
	}
	if left := root.files(); len(left) != 2 || !planned.contain("would write /etc/containerd/conf.d/limpet.toml") ||
		!planned.contain(" runtime_type = ") || !planned.contain("/usr/lib/limpet/vmlinux") {
		t.Fatalf("planned\n%s\nthere is %q", planned, left)
	}

	var done lines
	if err := Install(t.Context(), options(root, from), done.report); err != nil {
		t.Fatal(err)
	}
	files := root.files()
	for _, path := range []string{"/usr/local/bin/limpet", "/usr/local/bin/vhost-device-vsock", "/usr/lib/limpet/initramfs"} {
		if want := "limpet's " + filepath.Base(path); files[path] != want || !done.contain(path) {
			t.Errorf("%s: got %q, want %q", path, files[path], want)
		}
	}
	if info, err := os.Stat(filepath.Join(root.root, mainPath)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if len(files) != 2+len(installed())+2 {
		t.Errorf("there is %q", files)
	}

	var again lines
	if err := Install(t.Context(), options(root, from), again.report); err != nil {
		t.Fatal(err)
	}
	root.want(files)
	if again.contain("write ") || again.contain("copy ") {
		t.Errorf("a second time: %s", again)
	}

	templates := config.Default().Template.Dir
	root.write(filepath.Join(templates, "0123456789abcdef", "template.json"), "{}", 0o600)
	if err := os.Chmod(filepath.Join(root.root, templates), 0o700); err != nil {
		t.Fatal(err)
	}
	var removing lines
	if err := errors.Join(Uninstall(t.Context(), dry, removing.report), Uninstall(t.Context(), options(root, from), done.report)); err != nil {
		t.Fatal(err)
	}
	if !removing.contain("would remove the templates in "+templates) || !done.contain("remove the templates in "+templates) {
		t.Errorf("removing was planned\n%s\ndone was\n%s", removing, done)
	}
	root.want(map[string]string{mainPath: before, "/etc/limpet/config.toml": "[vm]\nvcpus = 2\n"})
	if err := Uninstall(t.Context(), options(root, from), done.report); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

// TestInstallRefuses has hosts on which nothing may be changed.
func TestInstallRefuses(t *testing.T) {
	t.Run("containerd's configuration", func(t *testing.T) {
		root := newTree(t)
		root.write(mainPath, "root = '/r'\n", 0o644)
		if err := Install(t.Context(), options(root, source(t)), new(lines).report); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("got %v", err)
		}
		root.want(map[string]string{mainPath: "root = '/r'\n"})
	})
	t.Run("limpet's configuration", func(t *testing.T) {
		root := newTree(t)
		root.write(config.DefaultPath, "memroy = 1\n", 0o644)
		err := Install(t.Context(), options(root, source(t)), new(lines).report)
		if err == nil || !strings.Contains(err.Error(), "memroy") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no limpet", func(t *testing.T) {
		root := newTree(t)
		err := Install(t.Context(), options(root, newTree(t)), new(lines).report)
		if err == nil || !strings.Contains(err.Error(), "make install DESTDIR=") {
			t.Errorf("got %v", err)
		}
		root.want(nil)
	})
	t.Run("a directory in the way", func(t *testing.T) {
		root := newTree(t)
		root.write("/usr/lib/limpet/initramfs/file", "", 0o644)
		if err := Install(t.Context(), options(root, source(t)), new(lines).report); err == nil {
			t.Error("installed")
		}
		root.want(map[string]string{"/usr/lib/limpet/initramfs/file": ""})
	})
	t.Run("sandboxes", func(t *testing.T) {
		root := newTree(t)
		if err := Install(t.Context(), options(root, source(t)), new(lines).report); err != nil {
			t.Fatal(err)
		}
		before := root.files()
		root.write("/run/limpet/0123456789abcdef/state.json", `{"id":"web","namespace":"k8s.io"}`, 0o600)
		before["/run/limpet/0123456789abcdef/state.json"] = `{"id":"web","namespace":"k8s.io"}`
		if err := Uninstall(t.Context(), options(root, newTree(t)), new(lines).report); err == nil {
			t.Error("uninstalled")
		}
		root.want(before)
	})
}

func TestPlanFilesConfiguredElsewhere(t *testing.T) {
	settings := config.Default()
	settings.Kernel = "/srv/vmlinux"
	changes, err := planFiles(newHost(t.TempDir()), source(t).root, settings)
	if err != nil || len(changes) != len(installed())-1 {
		t.Fatal(changes, err)
	}
	for _, change := range changes {
		if strings.Contains(change.Path, "vmlinux") {
			t.Errorf("planned: %v", change)
		}
	}
	root := source(t).root
	if changes, err := planFiles(newHost(root), root+"/", settings); err != nil || len(changes) > 0 {
		t.Errorf("files that are there: %v, %v", changes, err)
	}
}

// TestApply takes back what was done before the step that fails.
func TestApply(t *testing.T) {
	root := newTree(t)
	root.write("/a", "old a", 0o644)
	root.write("/same", "same", 0o644)
	root.write("/gone", "old", 0o600)
	root.write("/dir/file", "in the way", 0o644)
	before := root.files()
	a := application{host: newHost(root.root)}
	changes := []Change{
		{Path: "/a", Text: []byte("new a"), Mode: 0o755},
		{Path: "/new/b", Text: []byte("b"), Mode: 0o644},
		{Path: "/gone", Remove: true},
	}
	none := func(Change) {}
	err := a.apply(append(changes, Change{Path: "/dir", Text: []byte("x")}), none)
	if err == nil || !strings.Contains(err.Error(), "write /dir") {
		t.Fatalf("got %v", err)
	}
	root.want(before)
	if err := a.apply(append(changes, Change{Path: "/c", Copy: root.root + "/missing"}), none); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v", err)
	}
	root.want(before)
	if err := errors.Join(a.apply(changes, none), a.commit()); err != nil {
		t.Fatal(err)
	}
	root.want(map[string]string{"/a": "new a", "/same": "same", "/new/b": "b", "/dir/file": "in the way"})
	if info, err := os.Stat(root.root + "/a"); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", info, err)
	}
}

// TestHostLinks has a host whose links point to where they would on the host, not to this process's files.
func TestHostLinks(t *testing.T) {
	root := newTree(t)
	root.write("/mnt/containerd/config.toml", "version = 3\n", 0o644)
	if err := errors.Join(os.Mkdir(root.root+"/etc", 0o755), os.Symlink("/mnt/containerd", root.root+"/etc/containerd"),
		os.Symlink("../../../..", root.root+"/etc/up")); err != nil {
		t.Fatal(err)
	}
	host := newHost(root.root)
	text, _, err := host.read("/etc/containerd/config.toml")
	if err != nil || string(text) != "version = 3\n" {
		t.Errorf("%q, %v", text, err)
	}
	if path, err := host.path("/etc/up/passwd"); err != nil || path != root.root+"/passwd" {
		t.Errorf("%s, %v", path, err)
	}
	if text, _, err := host.read("/none"); text != nil || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	root.write("/empty", "", 0o644)
	if text, _, err := host.read("/empty"); text == nil || err != nil {
		t.Errorf("%q, %v", text, err)
	}
}

func TestHostProgram(t *testing.T) {
	root := newTree(t)
	root.write("/usr/bin/containerd", "", 0o755)
	root.write("/usr/local/bin/containerd", "not one", 0o644)
	if program, err := newHost(root.root).program("containerd"); err != nil || program != "/usr/bin/containerd" {
		t.Errorf("%s, %v", program, err)
	}
	if _, err := newHost(root.root).program("systemctl"); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
}

func TestSameBytes(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want bool
	}{{"", "", true}, {"a", "a", true}, {"a", "", false}, {"", "a", false}, {"a", "b", false}} {
		got, err := sameBytes(bytes.NewBufferString(test.a), bytes.NewBufferString(test.b))
		if err != nil || got != test.want {
			t.Errorf("%q and %q: %v, %v", test.a, test.b, got, err)
		}
	}
}
