package qemu

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/hypervisor"
)

// savedLab is a saved machine without a machine: files as Save writes them.
type savedLab struct {
	driver *Driver
	config hypervisor.Config
	dir    string // of what was saved
}

func newSavedLab(t *testing.T) savedLab {
	t.Helper()
	files := t.TempDir()
	path := func(name string) string { return filepath.Join(files, name) }
	for _, name := range []string{"qemu", "kernel", "image"} {
		write(t, path(name), name)
	}
	if err := os.Chmod(path("qemu"), 0o700); err != nil {
		t.Fatal(err)
	}
	l := savedLab{
		driver: New(Options{Path: path("qemu"), Virtiofsd: path("qemu"), Logger: slog.New(slog.DiscardHandler)}),
		config: hypervisor.Config{
			Name: "template", Kernel: path("kernel"), Initrd: path("image"), VCPUs: 1, MemoryMiB: 128,
			Accelerator: hypervisor.AcceleratorTCG,
		},
		dir: t.TempDir(),
	}
	var d description
	var err error
	if d.Ingredients, err = l.driver.Ingredients(l.config); err != nil {
		t.Fatal(err)
	}
	fill := func(text string) func(*os.File) error {
		return func(file *os.File) error {
			_, err := file.WriteString(text)
			return err
		}
	}
	if d.State, err = create(filepath.Join(l.dir, stateFile), fill("a state")); err != nil {
		t.Fatal(err)
	}
	if d.Memory, err = create(filepath.Join(l.dir, memoryFile), fill("a memory")); err != nil {
		t.Fatal(err)
	}
	if err := d.write(l.dir); err != nil {
		t.Fatal(err)
	}
	return l
}

// open opens what was saved, as Restore does.
func (l savedLab) open() error {
	plan, err := l.driver.plan(l.config)
	if err != nil {
		return err
	}
	saved, err := openSaved(l.dir, plan)
	if err != nil {
		return err
	}
	saved.close()
	return nil
}

// TestOpenSaved takes a saved machine as it is, and refuses one whose files, or the files that it is made of, are not what they were.
func TestOpenSaved(t *testing.T) {
	in := func(name string, change func(path string) error) func(*savedLab) error {
		return func(l *savedLab) error { return change(filepath.Join(l.dir, name)) }
	}
	cut := func(path string) error { return os.Truncate(path, 3) }
	longer := func(path string) error { return os.Truncate(path, 1<<20) }
	touch := func(path string) error { return os.Chtimes(path, time.Time{}, time.Now().Add(time.Hour)) }
	rubbish := func(path string) error { return os.WriteFile(path, []byte("{"), 0o600) }
	replace := func(path string) error { // by a copy with the same times
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path+".new", text, 0o700); err != nil {
			return err
		}
		if err := os.Chtimes(path+".new", time.Time{}, info.ModTime()); err != nil {
			return err
		}
		return os.Rename(path+".new", path)
	}
	foreign := func(path string) error { return os.Chown(path, 1, 0) }
	readable := func(path string) error { return os.Chmod(path, 0o640) }
	changed, gone := errdefs.IsFailedPrecondition, errdefs.IsNotFound
	for _, test := range []struct {
		name        string
		change      func(*savedLab) error
		open, check func(error) bool // nil: it is as it was
		says        string
	}{
		{"as it was saved", func(*savedLab) error { return nil }, nil, nil, ""},
		{"other name and place", func(l *savedLab) error { l.config.Name, l.config.Dir = "clone", "/d"; return nil }, nil, nil, ""},
		{"memory cut", in(memoryFile, cut), changed, changed, "3 bytes and not 8"},
		{"memory longer", in(memoryFile, longer), changed, changed, "1048576 bytes"},
		{"memory written", in(memoryFile, touch), changed, changed, "changed after it was saved"},
		{"memory of another user", in(memoryFile, foreign), changed, changed, "the user 1"},
		{"memory that others may read", in(memoryFile, readable), changed, changed, "0640"},
		{"no memory", in(memoryFile, os.Remove), changed, changed, memoryFile},
		{"state cut", in(stateFile, cut), changed, changed, "3 bytes and not 7"},
		{"state written", in(stateFile, touch), changed, changed, "changed after it was saved"},
		{"state of another user", in(stateFile, foreign), changed, changed, "the user 1"},
		{"no state", in(stateFile, os.Remove), changed, changed, stateFile},
		{"no description", in(descriptionFile, os.Remove), gone, gone, "save one first"},
		{"description cut", in(descriptionFile, cut), changed, changed, descriptionFile},
		{"rubbish as description", in(descriptionFile, rubbish), changed, changed, descriptionFile},
		{"another kernel", func(l *savedLab) error { return replace(l.config.Kernel) }, changed, changed, "kernel"},
		{"another image", func(l *savedLab) error { return touch(l.config.Initrd) }, changed, changed, "image"},
		{"another QEMU", func(l *savedLab) error { return replace(l.driver.options.Path) }, changed, changed, "qemu"},
		{"no kernel", func(l *savedLab) error { return os.Remove(l.config.Kernel) }, gone, changed, "kernel"},
		{"another size", func(l *savedLab) error { l.config.MemoryMiB++; return nil }, changed, nil, "arguments"},
		{"more ports", func(l *savedLab) error { l.config.Ports = hypervisor.DefaultPorts + 1; return nil }, changed, nil, "arguments"},
		{"private memory", func(l *savedLab) error { l.config.PrivateMemory = true; return nil }, changed, nil, "arguments"},
		{"another kernel parameter", func(l *savedLab) error { l.config.Cmdline = []string{"x"}; return nil }, changed, nil, "arguments"},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newSavedLab(t)
			if err := test.change(&l); err != nil {
				t.Fatal(err)
			}
			for what, got := range map[string]struct {
				err error
				is  func(error) bool
			}{"open": {l.open(), test.open}, "check": {l.driver.CheckSaved(l.dir), test.check}} {
				switch {
				case got.is == nil && got.err != nil, got.is != nil && !got.is(got.err):
					t.Errorf("%s: %v", what, got.err)
				case got.err != nil && !strings.Contains(got.err.Error(), test.says):
					t.Errorf("%s: %q does not say %q", what, got.err, test.says)
				}
			}
		})
	}
}

func TestDifferences(t *testing.T) {
	one := hypervisor.Ingredient{Name: "kernel", Path: "/k", Value: "1"}
	two := hypervisor.Ingredient{Name: "kernel", Path: "/k", Value: "2"}
	image := hypervisor.Ingredient{Name: "image", Path: "/i", Value: "1"}
	for _, test := range []struct {
		have, want []hypervisor.Ingredient
		names      string
	}{
		{nil, nil, ""},
		{[]hypervisor.Ingredient{one, image}, []hypervisor.Ingredient{image, one}, ""},
		{[]hypervisor.Ingredient{one, image}, []hypervisor.Ingredient{two, image}, "kernel"},
		{[]hypervisor.Ingredient{one}, []hypervisor.Ingredient{one, image}, "image"},
		{[]hypervisor.Ingredient{one, image}, nil, "kernel image"},
	} {
		if got := strings.Join(differences(test.have, test.want), " "); got != test.names {
			t.Errorf("%v, %v: %q", test.have, test.want, got)
		}
	}
}

// TestPrivateMemory makes clones of a guest that has parked that have their memory to themselves. They go on where it parked, and the saved
// memory stays as it was.
func TestPrivateMemory(t *testing.T) {
	const woken = "init: ready"
	l := newLab(t)
	l.config.Cmdline = append(l.config.Cmdline, protocol.ParkParameter)
	l.config.Parks, l.config.PrivateMemory = true, true
	dir := t.TempDir()
	m := l.boot()
	if err := m.Parked(l.ctx); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("await the parking of a machine that does not run: %v", err)
	}
	l.check(m.Resume(l.ctx))
	l.check(m.Parked(l.ctx))
	if console := m.Console(); strings.Contains(console, woken) {
		t.Errorf("it goes on: %s", console)
	}
	l.check(m.Save(l.ctx, dir))
	l.check(m.Stop(l.ctx))
	saved, err := os.ReadFile(filepath.Join(dir, memoryFile))
	l.check(err)

	l.config.Parks = false
	var clones []*machine
	for range 2 {
		clone := l.own(l.driver.Restore(l.ctx, l.config, dir))
		clones = append(clones, clone)
		l.check(clone.Resume(l.ctx))
	}
	for _, clone := range clones {
		l.awaitConsole(clone, woken)
	}
	if err := clones[0].Parked(l.ctx); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("await the parking of a clone: %v", err)
	}
	now, err := os.ReadFile(filepath.Join(dir, memoryFile))
	if err != nil || !bytes.Equal(now, saved) {
		t.Errorf("the saved memory has changed, %v", err)
	}
	if err := l.driver.CheckSaved(dir); err != nil {
		t.Error(err)
	}
}

// TestParkedNever awaits the parking of guests that never do: one that was not asked to, and one that ends instead.
func TestParkedNever(t *testing.T) {
	l := newLab(t)
	m := l.boot()
	l.check(m.Resume(l.ctx))
	if err := m.Parked(l.ctx); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a machine that cannot: %v", err)
	}
	l.config.Parks = true
	m = l.boot()
	l.check(m.Resume(l.ctx))
	l.awaitConsole(m, "init: ready")
	ctx, cancel := context.WithTimeout(l.ctx, time.Millisecond)
	defer cancel()
	if err := m.Parked(ctx); err == nil || ctx.Err() == nil {
		t.Errorf("a machine that does not: %v", err)
	}
	l.config.Cmdline = append(l.config.Cmdline, "rdinit=/none")
	m = l.boot()
	l.check(m.Resume(l.ctx))
	if err := m.Parked(l.ctx); err == nil || l.ctx.Err() != nil {
		t.Errorf("a machine that ends: %v", err)
	}
}

// awaitConsole waits until a guest has written a text.
func (l *lab) awaitConsole(m *machine, want string) {
	l.Helper()
	for console, offset := "", int64(0); !strings.Contains(console, want); {
		text, end, more := m.ConsoleSince(offset)
		console, offset = console+text, end
		if text != "" {
			continue
		}
		select {
		case <-more:
		case <-l.ctx.Done():
			l.Fatalf("the guest does not write %q:\n%s", want, console)
		}
	}
}
