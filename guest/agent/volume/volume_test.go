package volume

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

func TestPlan(t *testing.T) {
	s := NewSet("/volumes")
	const all = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, test := range []struct {
		name  string
		mount protocol.Mount
		want  plan
	}{
		{"memory", protocol.Mount{Source: "tmpfs", Target: "/volumes/shm", FSType: "tmpfs", Options: []string{"size=4096", "mode=1777", "uid=7",
			"nosuid", "nodev", "noexec"}}, plan{target: "/volumes/shm", flags: all, data: "size=4096,mode=1777,uid=7,gid=0"}},
		{"memory without options", protocol.Mount{Target: "/volumes/a.b-c_1", FSType: "tmpfs"},
			plan{target: "/volumes/a.b-c_1", data: "size=0,mode=755,uid=0,gid=0"}},
		{"directory", protocol.Mount{Source: "/volumes/cache/sub/dir", Target: "/volumes/c1-0", FSType: "bind",
			Options: []string{"mode=0750", "gid=5"}},
			plan{target: "/volumes/c1-0", source: "cache", path: "sub/dir", directory: directory{mode: 0o750, gid: 5}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got, err := s.plan(test.mount); err != nil || !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func TestPlanRefuses(t *testing.T) {
	s := NewSet("/volumes")
	const long = "/volumes/cache/" + "x"
	for _, test := range []struct{ target, fsType, source, option string }{
		{target: "/etc", fsType: "tmpfs"},
		{target: "/volumes", fsType: "tmpfs"},
		{target: "/volumes/", fsType: "tmpfs"},
		{target: "/volumes/..", fsType: "tmpfs"},
		{target: "/volumes/a/b", fsType: "tmpfs"},
		{target: "/volumes/a\x00b", fsType: "tmpfs"},
		{target: "/volumes/" + strings.Repeat("x", 256), fsType: "tmpfs"},
		{target: "/volumes/a", fsType: "ext4"},
		{target: "/volumes/a", fsType: ""},
		{target: "/volumes/a", fsType: "tmpfs", option: "huge=always"},
		{target: "/volumes/a", fsType: "tmpfs", option: "size=-1"},
		{target: "/volumes/a", fsType: "tmpfs", option: "size=50%"},
		{target: "/volumes/a", fsType: "tmpfs", option: "size=1,mpol=local"},
		{target: "/volumes/a", fsType: "tmpfs", option: "mode=10000"},
		{target: "/volumes/a", fsType: "tmpfs", option: "uid=4294967295"},
		{target: "/volumes/a", fsType: "tmpfs", option: "nosuid=1"},
		{target: "/volumes/a", fsType: "bind", source: "/etc/x"},
		{target: "/volumes/a", fsType: "bind", source: "/volumes/cache"},
		{target: "/volumes/a", fsType: "bind", source: "/volumes/cache/"},
		{target: "/volumes/a", fsType: "bind", source: "/volumes/cache/../x"},
		{target: "/volumes/a", fsType: "bind", source: "/volumes/../x"},
		{target: "/volumes/a", fsType: "bind", source: "/volumes/cache/" + strings.Repeat("x/", 2100)},
		{target: "/volumes/a", fsType: "bind", source: long, option: "size=1"},
		{target: "/volumes/a", fsType: "bind", source: long, option: "nosuid"},
	} {
		m := protocol.Mount{Target: test.target, FSType: test.fsType, Source: test.source}
		if test.option != "" {
			m.Options = []string{test.option}
		}
		if err := s.Mount(m); !errdefs.IsInvalidArgument(err) || len(err.Error()) > 500 {
			t.Errorf("%+v: got %v", test, err)
		}
	}
	many := protocol.Mount{Target: "/volumes/a", FSType: "tmpfs", Options: make([]string, maxOptions+1)}
	if err := s.Mount(many); !errdefs.IsInvalidArgument(err) {
		t.Errorf("many options: got %v", err)
	}
}

// newTestSet is a set in a directory of its own, whose volumes go with the test.
func newTestSet(t *testing.T) *Set {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
	s := NewSet(filepath.Join(t.TempDir(), "volumes"))
	t.Cleanup(func() {
		left, err := os.ReadDir(s.root)
		if err != nil {
			t.Error(err)
		}
		for _, entry := range left {
			if err := s.Unmount(protocol.Unmount{Target: filepath.Join(s.root, entry.Name())}); err != nil {
				t.Error(err)
			}
		}
		if left, err = os.ReadDir(s.root); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	})
	return s
}

// memory mounts a volume in memory and returns its path.
func (s *Set) memory(t *testing.T, name string, options ...string) string {
	t.Helper()
	target := filepath.Join(s.root, name)
	if err := s.Mount(protocol.Mount{Source: "tmpfs", Target: target, FSType: "tmpfs", Options: options}); err != nil {
		t.Fatal(err)
	}
	return target
}

// look returns what stat(2) says of a path.
func look(t *testing.T, path string) unix.Stat_t {
	t.Helper()
	var status unix.Stat_t
	if err := unix.Lstat(path, &status); err != nil {
		t.Fatal(path, err)
	}
	return status
}

func TestMemory(t *testing.T) {
	s := newTestSet(t)
	target := s.memory(t, "shm", "size=65536", "mode=1777", "uid=7", "gid=8", "noexec")
	var fileSystem unix.Statfs_t
	if err := unix.Statfs(target, &fileSystem); err != nil {
		t.Fatal(err)
	}
	size := fileSystem.Blocks * uint64(fileSystem.Bsize)
	if fileSystem.Type != unix.TMPFS_MAGIC || size != 65536 || fileSystem.Flags&unix.ST_NOEXEC == 0 || fileSystem.Flags&unix.ST_NOSUID != 0 {
		t.Errorf("got %d bytes, type %#x, flags %#x", size, fileSystem.Type, fileSystem.Flags)
	}
	if status := look(t, target); status.Mode&0o7777 != 0o1777 || status.Uid != 7 || status.Gid != 8 {
		t.Errorf("got mode %o, owner %d:%d", status.Mode, status.Uid, status.Gid)
	}
	again := protocol.Mount{Source: "tmpfs", Target: target, FSType: "tmpfs"}
	if err := s.Mount(again); !errdefs.IsAlreadyExists(err) {
		t.Errorf("again: %v", err)
	}
	if err := s.Unmount(protocol.Unmount{Target: target}); err != nil {
		t.Error(err)
	}
	if err := s.Unmount(protocol.Unmount{Target: target}); !errdefs.IsNotFound(err) {
		t.Errorf("unmounted twice: %v", err)
	}
	if err := s.Mount(again); err != nil {
		t.Errorf("after it was unmounted: %v", err)
	}
}

// TestBind mounts parts of a volume in which containers may have made what they like.
func TestBind(t *testing.T) {
	s := newTestSet(t)
	cache := s.memory(t, "cache", "size=65536")
	outside := t.TempDir()
	for _, err := range []error{
		os.Mkdir(filepath.Join(cache, "dir"), 0o700),
		os.WriteFile(filepath.Join(cache, "dir", "file"), []byte("text"), 0o600),
		os.Symlink(outside, filepath.Join(cache, "link")),
		os.Symlink("dir", filepath.Join(cache, "short")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	bind := func(name, way string) error {
		return s.Mount(protocol.Mount{
			Source: cache + "/" + way, Target: filepath.Join(s.root, name), FSType: "bind", Options: []string{"mode=2750", "uid=7", "gid=8"},
		})
	}
	for _, test := range []struct {
		name, way string
		mode      uint32
		uid       uint32
	}{
		{"new", "new/below", unix.S_IFDIR | 0o2750, 7},
		{"there", "dir", unix.S_IFDIR | 0o700, 0},
		{"file", "dir/file", unix.S_IFREG | 0o600, 0},
	} {
		if err := bind(test.name, test.way); err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		got, want := look(t, filepath.Join(s.root, test.name)), look(t, filepath.Join(cache, test.way))
		if got.Dev != want.Dev || got.Ino != want.Ino || got.Mode != test.mode || got.Uid != test.uid {
			t.Errorf("%s: got %d:%d, want %d:%d; mode %o, owner %d", test.name, got.Dev, got.Ino, want.Dev, want.Ino, got.Mode, got.Uid)
		}
	}
	for _, way := range []string{"link", "link/x", "short", "dir/file/x"} {
		if err := bind("refused", way); err == nil {
			t.Errorf("%s was mounted", way)
		}
	}
	if err := s.Mount(protocol.Mount{Source: s.root + "/none/x", Target: s.root + "/refused", FSType: "bind"}); err == nil {
		t.Error("a directory of no volume was mounted")
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("outside the volume: %v, %v", left, err)
	}
	if _, err := os.Lstat(filepath.Join(s.root, "refused")); !os.IsNotExist(err) {
		t.Errorf("left of what was refused: %v", err)
	}
}

// FuzzPlan: whatever a message says, what is mounted lies below the root.
func FuzzPlan(f *testing.F) {
	f.Add("/volumes/a", "tmpfs", "tmpfs", "size=1")
	f.Add("/volumes/a", "bind", "/volumes/b/c", "mode=0755")
	f.Fuzz(func(t *testing.T, target, fsType, source, option string) {
		s := NewSet("/volumes")
		plan, err := s.plan(protocol.Mount{Target: target, FSType: fsType, Source: source, Options: []string{option}})
		if err != nil {
			return
		}
		if filepath.Dir(plan.target) != s.root || filepath.Clean(plan.target) != plan.target {
			t.Errorf("target %q", plan.target)
		}
		if plan.source != "" && (!isName(plan.source) || !filepath.IsLocal(plan.path)) {
			t.Errorf("source %q, path %q", plan.source, plan.path)
		}
		if strings.Count(plan.data, ",") > 3 || strings.ContainsAny(plan.data, "\x00\\") {
			t.Errorf("data %q", plan.data)
		}
	})
}
