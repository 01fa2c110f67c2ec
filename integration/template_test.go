package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/integration/harness"
	"github.com/limpet-run/limpet/runtime/template"
)

// What the log says of a start that found no use for a template, and of one that made it.
const (
	bootWarning = "the sandbox boots: it cannot be a clone"
	buildNote   = "template built"
)

// nobody is a user that is not the tests'.
const nobody = 65534

// started is what a start did about templates.
type started struct {
	templates []string // that were there after it, by identifier
	builds    int
	warning   string // why it was no clone; empty: it was one
}

// startIn runs a container with a directory of templates. It has to run in any case, and nothing half made may be left in the directory.
func (s *scope) startIn(dir string) started {
	s.Helper()
	before := len(daemon.Log())
	if got := s.output(nil, "echo", "up"); got != "up\n" {
		s.Errorf("the container wrote %q", got)
	}
	log := daemon.Log()[before:]
	result := started{templates: s.templatesIn(dir), builds: strings.Count(log, buildNote)}
	for line := range strings.Lines(log) {
		if strings.Contains(line, bootWarning) && strings.Contains(line, "level=WARN") {
			result.warning += line
		}
	}
	return result
}

// templatesIn lists the templates in a directory, in which there may be nothing else but locks and the counts of starts.
func (s *scope) templatesIn(dir string) (ids []string) {
	s.Helper()
	entries, err := os.ReadDir(dir)
	s.must(err)
	for _, entry := range entries {
		switch name := entry.Name(); {
		case name == "counts.json":
		case !strings.HasPrefix(name, "."):
			ids = append(ids, name)
		case !strings.HasSuffix(name, ".lock"):
			s.Errorf("left in the directory of templates: %s", name)
		}
	}
	return ids
}

// TestTemplateOnFirstUse makes a template with the first container, and clones it from then on.
func TestTemplateOnFirstUse(t *testing.T) {
	s := clonesOnly(t)
	dir := s.useTemplates(nil)
	first, second := s.startIn(dir), s.startIn(dir)
	if first.builds != 1 || first.warning != "" || len(first.templates) != 1 {
		t.Errorf("the first start: %+v", first)
	}
	if second.builds != 0 || second.warning != "" || !slices.Equal(second.templates, first.templates) {
		t.Errorf("the second start: %+v", second)
	}
	info, err := os.Stat(dir)
	s.must(err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("the directory of templates has the mode %o", info.Mode().Perm())
	}
}

// overwrite writes zeroes over a file in a way that its size and time do not tell.
func overwrite(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = io.CopyN(file, zeros{}, info.Size())
	return errors.Join(err, file.Close(), os.Chtimes(path, time.Time{}, info.ModTime()))
}

// zeros is an endless input.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// TestSpoiltTemplate spoils a template. The next sandbox boots, with a warning, and the one after it is a clone again.
func TestSpoiltTemplate(t *testing.T) {
	s := clonesOnly(t)
	dir := s.useTemplates(nil)
	whole := s.startIn(dir)
	if len(whole.templates) != 1 {
		t.Fatalf("the first start: %+v", whole)
	}
	cut := func(path string) error { return os.Truncate(path, 1000) }
	for _, test := range []struct {
		name, file string
		spoil      func(path string) error
		words      []string // in the warning
	}{
		{"memory cut short", "memory", cut, []string{"memory", "1000 bytes"}},
		{"state cut short", "state", cut, []string{"state", "1000 bytes"}},
		{"description cut short", "machine.json", func(path string) error { return os.Truncate(path, 20) }, []string{"machine.json"}},
		{"memory touched", "memory", func(path string) error { return os.Chtimes(path, time.Time{}, time.Now()) }, []string{"memory", "changed"}},
		{"memory of another user", "memory", func(path string) error { return os.Chown(path, nobody, nobody) }, []string{"memory", "65534"}},
		{"state for others to write", "state", func(path string) error { return os.Chmod(path, 0o606) }, []string{"state", "0606"}},
		{"state overwritten", "state", overwrite, []string{"migrate-incoming"}},
		{"memory overwritten", "memory", overwrite, []string{"does not wake"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s.must(test.spoil(filepath.Join(dir, whole.templates[0], test.file)))
			spoilt := s.startIn(dir)
			wantError(t, spoilt.warning, test.words...)
			if len(spoilt.templates) != 0 {
				t.Errorf("the spoilt template stays: %+v", spoilt)
			}
			if again := s.startIn(dir); again.warning != "" || !slices.Equal(again.templates, whole.templates) {
				t.Errorf("the start after it: %+v", again)
			}
		})
	}
}

// TestTemplatesOfOthers keeps templates in a directory that others can write to. They stay, and are not used until it is ours alone.
func TestTemplatesOfOthers(t *testing.T) {
	for _, test := range []struct {
		name        string
		give, takes func(dir string) error
		words       []string
	}{
		{"owner", func(dir string) error { return os.Chown(dir, nobody, nobody) }, func(dir string) error { return os.Chown(dir, 0, 0) },
			[]string{"65534", "chown"}},
		{"mode", func(dir string) error { return os.Chmod(dir, 0o777) }, func(dir string) error { return os.Chmod(dir, 0o700) },
			[]string{"0777", "chmod"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := clonesOnly(t)
			dir := s.useTemplates(nil)
			first := s.startIn(dir)
			s.must(test.give(dir))
			refused := s.startIn(dir)
			wantError(t, refused.warning, append(test.words, dir)...)
			s.must(test.takes(dir))
			again := s.startIn(dir)
			if again.warning != "" || again.builds != 0 || !slices.Equal(again.templates, first.templates) ||
				!slices.Equal(refused.templates, first.templates) {
				t.Errorf("first %+v, then %+v, then %+v", first, refused, again)
			}
		})
	}
}

// copyFile puts a copy of a file in the place of whatever is at target, as an upgrade does.
func copyFile(source, target string) error {
	text, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	if err := os.WriteFile(target+".new", text, 0o755); err != nil {
		return err
	}
	return os.Rename(target+".new", target)
}

// TestTemplateReplaced changes what a template was made with. The next sandbox makes another, is a clone of that, and the old one goes.
func TestTemplateReplaced(t *testing.T) {
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, source string
		config       func(path string) map[string]any
	}{
		{"kernel", daemon.Build.Path("vmlinux"), func(path string) map[string]any { return map[string]any{"kernel": path} }},
		{"image", daemon.Build.Path("initramfs"), func(path string) map[string]any { return map[string]any{"image": path} }},
		{"QEMU", qemu, func(path string) map[string]any { return map[string]any{"hypervisor": map[string]any{"path": path}} }},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := clonesOnly(t)
			place := t.TempDir() // QEMU looks for its files beside the directory that it is in
			for _, other := range []string{"share", "lib"} {
				s.must(os.Symlink(filepath.Join("/usr", other), filepath.Join(place, other)))
			}
			s.must(os.Mkdir(filepath.Join(place, "bin"), 0o755))
			path := filepath.Join(place, "bin", "upgraded")
			s.must(copyFile(test.source, path))
			dir := s.useTemplates(test.config(path))
			first := s.startIn(dir)
			s.must(copyFile(test.source, path))
			second := s.startIn(dir)
			if first.builds != 1 || second.builds != 1 || first.warning+second.warning != "" ||
				len(first.templates) != 1 || len(second.templates) != 1 || first.templates[0] == second.templates[0] {
				t.Errorf("first %+v, then %+v", first, second)
			}
		})
	}
}

// smallDisk mounts a file system with room for less than a template.
func (s *scope) smallDisk() string {
	s.Helper()
	disk := s.TempDir()
	s.must(unix.Mount("tmpfs", disk, "tmpfs", 0, "size=4m"))
	s.Cleanup(func() {
		if err := unix.Unmount(disk, 0); err != nil {
			s.Error(err)
		}
	})
	return disk
}

// TestTemplateOnSmallDisk has no room for a template.
func TestTemplateOnSmallDisk(t *testing.T) {
	s := clonesOnly(t)
	dir := filepath.Join(s.smallDisk(), "templates")
	s.useTemplates(map[string]any{"template": map[string]any{"enabled": true, "dir": dir}})
	got := s.startIn(dir)
	wantError(t, got.warning, "build template", "no space left")
	if len(got.templates) != 0 {
		t.Errorf("left in the directory: %v", got.templates)
	}
}

// TestFullSharedMemory has no room in /dev/shm, where neither templates nor clones are.
func TestFullSharedMemory(t *testing.T) {
	s := clonesOnly(t)
	dir := s.useTemplates(nil)
	script := "mount -t tmpfs -o size=4k tmpfs /dev/shm && head -c 4096 /dev/zero >/dev/shm/full && exec \"$@\""
	for range 2 { // one makes the template, one finds it
		result := harness.Run(exec.CommandContext(s.ctx, "unshare", "--mount", "sh", "-c", script, "sh",
			daemon.Build.Path("bin/limpet"), "run", "--config", s.config, s.rootfs(), "--", "echo", "up"))
		s.must(result.Err())
		if result.Stdout != "up\n" || strings.Contains(result.Stderr, bootWarning) {
			t.Errorf("the container wrote %q, limpet %s", result.Stdout, result.Stderr)
		}
	}
	if templates := s.templatesIn(dir); len(templates) != 1 {
		t.Errorf("templates %v", templates)
	}
}

// crowdOf starts so many containers at once, and waits until all have said who they are.
func (s *scope) crowdOf(count int) {
	s.Helper()
	var group errgroup.Group
	for i := range count {
		spec := s.spec([]string{"--rm"}, "echo", fmt.Sprint("I am ", i))
		group.Go(func() error {
			result := daemon.Ctr(s.ctx, daemon.Args("run", spec)...)
			if want := fmt.Sprintf("I am %d\n", i); result.Err() == nil && result.Stdout != want {
				return fmt.Errorf("container %d wrote %q", i, result.Stdout)
			}
			return result.Err()
		})
	}
	if err := group.Wait(); err != nil {
		s.Error(err)
	}
}

// TestOneBuildForAll starts ten sandboxes at once where there is no template: one of them makes it, and all are its clones.
func TestOneBuildForAll(t *testing.T) {
	s := clonesOnly(t)
	dir := s.useTemplates(nil)
	before := len(daemon.Log())
	s.crowdOf(10)
	log := daemon.Log()[before:]
	if builds, boots := strings.Count(log, buildNote), strings.Count(log, bootWarning); builds != 1 || boots != 0 {
		t.Errorf("%d templates were built, and %d sandboxes booted", builds, boots)
	}
	if templates := s.templatesIn(dir); len(templates) != 1 {
		t.Errorf("templates %v", templates)
	}
}

// manyAtOnce is how many sandboxes a host with two processors has to start at the same time.
const manyAtOnce = 50

// TestManyAtOnce starts many sandboxes at once. None of them fails, or is so slow that it has to boot.
func TestManyAtOnce(t *testing.T) {
	s := clonesOnly(t)
	dir := s.useTemplates(nil)
	s.startIn(dir)
	before, began := len(daemon.Log()), time.Now()
	s.crowdOf(manyAtOnce)
	t.Logf("all have said who they are after %s", time.Since(began).Round(time.Millisecond))
	if boots := strings.Count(daemon.Log()[before:], bootWarning); boots != 0 {
		t.Errorf("%d sandboxes booted", boots)
	}
}

// TestTemplateRemovedMeanwhile starts ten sandboxes while every template is removed as soon as it is there.
func TestTemplateRemovedMeanwhile(t *testing.T) {
	s := clonesOnly(t)
	dir := s.useTemplates(nil)
	ctx, cancel := context.WithCancel(s.ctx)
	removed := make(chan int)
	go func() { removed <- removeTemplates(ctx, t, template.Open(dir)) }()
	s.crowdOf(10)
	cancel()
	t.Logf("%d templates were removed", <-removed)
	s.templatesIn(dir)
}

// removeTemplates removes all templates until the context ends, and returns how many there were.
func removeTemplates(ctx context.Context, t *testing.T, store *template.Store) (count int) {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		templates, err := store.List()
		if err != nil {
			t.Error(err)
		}
		for _, template := range templates {
			if err := store.Remove(template.ID); err != nil && !errdefs.IsNotFound(err) {
				t.Error(err)
			}
			count++
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return count
		}
	}
}

// deafOnce writes a program that is limpet's vsock daemon, but has its sockets elsewhere the first time: nothing that the guest says then
// arrives.
func (s *scope) deafOnce() string {
	s.Helper()
	dir := s.TempDir()
	path := filepath.Join(dir, "vsock")
	script := fmt.Sprintf(`#!/bin/bash
mkdir '%[1]s/deaf' 2>/dev/null && set -- "${@/--uds-path=*/--uds-path=%[1]s/deaf/vsock}"
exec '%[2]s' "$@"
`, dir, daemon.Build.Path("bin/vhost-device-vsock"))
	s.must(os.WriteFile(path, []byte(script), 0o755))
	return path
}

// TestCloneDoesNotWake has a clone of which nothing is heard. After a while the sandbox boots instead, once.
func TestCloneDoesNotWake(t *testing.T) {
	s := clonesOnly(t)
	dir := s.useTemplates(nil)
	first := s.startIn(dir)
	s.useTemplates(map[string]any{
		"template": map[string]any{"enabled": true, "dir": dir},
		"vsock":    map[string]any{"backend": "daemon", "daemon": s.deafOnce()},
		"timeouts": map[string]any{"boot": "30s"},
	})
	began := time.Now()
	slow := s.startIn(dir)
	t.Logf("the start took %s", time.Since(began).Round(time.Millisecond))
	wantError(t, slow.warning, "does not wake", "not ready within 15s", "timeouts.boot")
	if strings.Count(slow.warning, bootWarning) != 1 || len(slow.templates) != 0 {
		t.Errorf("first %+v, then %+v", first, slow)
	}
	if again := s.startIn(dir); again.warning != "" || !slices.Equal(again.templates, first.templates) {
		t.Errorf("the start after it: %+v", again)
	}
}
