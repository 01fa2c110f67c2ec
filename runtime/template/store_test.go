package template

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/hypervisor"
)

func TestID(t *testing.T) {
	seen := map[string]int{}
	for i, list := range [][]hypervisor.Ingredient{
		nil,
		ingredients("a"),
		ingredients("b"),
		ingredients("a", "new"),
		{{Name: hypervisor.IngredientArguments, Value: "a"}, {Name: "kernel", Path: "/l"}},
		{{Name: "kernel", Path: "/k"}, {Name: hypervisor.IngredientArguments, Value: "a"}},
		{{Name: "kernel", Value: "/k"}, {Name: hypervisor.IngredientArguments, Value: "a"}},
		{{Name: "a", Value: `b" "c`}},
		{{Name: "a", Path: "b", Value: "c"}},
	} {
		id := ID(list)
		if other, taken := seen[id]; taken || !isID(id) || ID(slices.Clone(list)) != id {
			t.Errorf("%v: %s, which is %d's, too", list, id, other)
		}
		seen[id] = i
	}
	for _, text := range []string{"", "..", "0123456789abcde", "0123456789abcdef0", "0123456789ABCDEF", "0123456789abcdeg", ".building-a"} {
		if isID(text) {
			t.Errorf("%q is taken for an identifier", text)
		}
	}
}

// TestUse has ten ask for a template at the same time, and for another one: each is built once.
func TestUse(t *testing.T) {
	s := newStore(t)
	var built atomic.Int32
	var group sync.WaitGroup
	for i := range 20 {
		configuration := []string{"a", "b"}[i%2]
		group.Go(func() {
			dir, err := s.Use(t.Context(), ingredients(configuration), func(_ context.Context, dir string) error {
				built.Add(1)
				return save(dir)
			})
			if err != nil || dir != filepath.Join(s.dir, ID(ingredients(configuration))) {
				t.Errorf("got %s, %v", dir, err)
			}
			if _, err := os.Stat(filepath.Join(dir, "memory")); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if built.Load() != 2 {
		t.Errorf("built %d times", built.Load())
	}
	info, err := os.Stat(s.dir)
	check(t, err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("the directory has the mode %v", info.Mode())
	}
}

// TestProcesses has ten processes ask for a template at the same time: one builds it. All of them count, too.
func TestProcesses(t *testing.T) {
	s := newStore(t)
	check(t, os.Mkdir(s.dir, 0o700))
	builders := make(chan int, 10)
	var others []other
	var group sync.WaitGroup
	for i := range 10 {
		others = append(others, startOther(t, s.dir))
		if line := others[i].next(); line != "ready" {
			t.Fatalf("a process says %q", line)
		}
	}
	for i, o := range others {
		o.goOn(t)
		group.Go(func() {
			if o.next() == "building" {
				builders <- i
				o.goOn(t)
			}
		})
	}
	group.Wait()
	for _, o := range others {
		if err := o.Wait(); err != nil {
			t.Error(err)
		}
	}
	if len(builders) != 1 {
		t.Errorf("%d processes built", len(builders))
	}
	if got := names(t, s.dir); !slices.Equal(got, []string{ID(ingredients("a"))}) {
		t.Errorf("there are %q", got)
	}
	counts, err := s.Counts(t.Context())
	if err != nil || counts.Clones != 10*countsOfOther || counts.Boots != 0 {
		t.Errorf("counted %+v, %v", counts, err)
	}
}

// TestKilledBuilder kills a process that builds. One that waits for it builds, and what was half there is gone.
func TestKilledBuilder(t *testing.T) {
	s := newStore(t)
	check(t, os.Mkdir(s.dir, 0o700))
	builder := startOther(t, s.dir)
	for _, want := range []string{"ready", "building"} {
		if line := builder.next(); line != want {
			t.Fatalf("it says %q, not %q", line, want)
		}
		if want == "ready" {
			builder.goOn(t)
		}
	}
	if got := names(t, s.dir); !slices.Equal(got, []string{buildPrefix + ID(ingredients("a"))}) {
		t.Fatalf("there are %q", got)
	}
	used := make(chan error)
	go func() {
		_, err := s.Use(t.Context(), ingredients("b"), quick)
		used <- err
	}()
	check(t, builder.Process.Kill())
	_ = builder.Wait() // it was killed
	check(t, <-used)
	if got := names(t, s.dir); !slices.Equal(got, []string{ID(ingredients("b"))}) {
		t.Errorf("there are %q", got)
	}
}

// TestWaiters has some wait for a builder who takes his time: their contexts end, and his work goes on.
func TestWaiters(t *testing.T) {
	s := newStore(t)
	building, goOn, built := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		_, err := s.Use(t.Context(), ingredients("a"), func(_ context.Context, dir string) error {
			close(building)
			<-goOn
			return save(dir)
		})
		built <- err
	}()
	<-building
	for _, configuration := range []string{"a", "b"} {
		ctx, cancel := context.WithCancelCause(t.Context())
		cause := errors.New("no time left")
		cancel(cause)
		if dir, err := s.Use(ctx, ingredients(configuration), never(t)); !errors.Is(err, cause) || dir != "" {
			t.Errorf("got %q, %v", dir, err)
		}
	}
	if list, err := s.List(); err != nil || len(list) > 0 {
		t.Errorf("before it is ready there are %v, %v", list, err)
	}
	close(goOn)
	check(t, <-built)
	_, err := s.Use(t.Context(), ingredients("a"), never(t))
	check(t, err)
	_, err = s.Use(t.Context(), ingredients("b"), quick) // nobody holds the lock
	check(t, err)
}

// TestFailedBuilder has a builder that fails: nothing is left, and the next one builds.
func TestFailedBuilder(t *testing.T) {
	s := newStore(t)
	broken := errors.New("no machine")
	_, err := s.Use(t.Context(), ingredients("a"), func(_ context.Context, dir string) error { return errors.Join(save(dir), broken) })
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), ID(ingredients("a"))) {
		t.Errorf("got %v", err)
	}
	if got := names(t, s.dir); len(got) > 0 {
		t.Errorf("left are %q", got)
	}
	dir, err := s.Use(t.Context(), ingredients("a"), quick)
	check(t, err)
	check(t, s.Discard(filepath.Base(dir)))
	check(t, s.Discard(filepath.Base(dir)))
	if got := names(t, s.dir); len(got) > 0 {
		t.Errorf("left are %q", got)
	}
}

// TestReplaced builds the template of a configuration whose files have changed: the old one goes, others stay.
func TestReplaced(t *testing.T) {
	s := newStore(t)
	for _, each := range [][]hypervisor.Ingredient{ingredients("a", "old"), ingredients("b", "old"), ingredients("a", "new")} {
		_, err := s.Use(t.Context(), each, quick)
		check(t, err)
	}
	want := []string{ID(ingredients("b", "old")), ID(ingredients("a", "new"))}
	slices.Sort(want)
	if got := names(t, s.dir); !slices.Equal(got, want) {
		t.Errorf("there are %q, want %q", got, want)
	}
}

// TestFullDisk builds on a file system that is too small: nothing is left half, and with more room it goes well.
func TestFullDisk(t *testing.T) {
	disk := t.TempDir()
	check(t, unix.Mount("tmpfs", disk, "tmpfs", 0, "size=64k,mode=700"))
	t.Cleanup(func() { check(t, unix.Unmount(disk, 0)) })
	s := Open(filepath.Join(disk, "templates"))
	for _, test := range []struct {
		name  string
		build Builder
	}{
		{"too large", func(_ context.Context, dir string) error {
			return os.WriteFile(filepath.Join(dir, "memory"), make([]byte, 1<<20), 0o600)
		}},
		{"no room for what is said of it", func(_ context.Context, dir string) error {
			err := os.WriteFile(filepath.Join(dir, "memory"), make([]byte, 1<<20), 0o600)
			if !errors.Is(err, unix.ENOSPC) {
				t.Errorf("the disk is not full: %v", err)
			}
			return nil
		}},
	} {
		if _, err := s.Use(t.Context(), ingredients("a"), test.build); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%s: %v", test.name, err)
		}
		if got := names(t, s.dir); len(got) > 0 {
			t.Errorf("%s: left are %q", test.name, got)
		}
	}
	filler := filepath.Join(disk, "filler")
	if err := os.WriteFile(filler, make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	if err := s.CountClone(t.Context()); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("count: %v", err)
	}
	check(t, os.Remove(filler))
	check(t, s.CountClone(t.Context()))
	_, err := s.Use(t.Context(), ingredients("a"), quick)
	check(t, err)
}

// TestForeignDirectory has directories that others may write, or that are no directories: nothing there is used, and nothing written.
func TestForeignDirectory(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(dir string) error
	}{
		{"others may read", func(dir string) error { return os.Chmod(dir, 0o755) }},
		{"a group may write", func(dir string) error { return os.Chmod(dir, 0o720) }},
		{"another user's", func(dir string) error { return os.Chown(dir, 1, 0) }},
		{"a file", func(dir string) error { return errors.Join(os.Remove(dir), os.WriteFile(dir, nil, 0o600)) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newStore(t)
			check(t, os.Mkdir(s.dir, 0o700))
			check(t, test.change(s.dir))
			_, err := s.Use(t.Context(), ingredients("a"), never(t))
			for _, err := range []error{s.Check(), err, s.CountClone(t.Context()), s.CountBoot(t.Context(), "s", errors.New("x"))} {
				if !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), s.dir) || !strings.Contains(err.Error(), "template.dir") {
					t.Errorf("got %v", err)
				}
			}
			if info, err := os.Stat(s.dir); err != nil || info.IsDir() && len(names(t, s.dir)) > 0 {
				t.Errorf("something was written: %v", err)
			}
		})
	}
	// One that was in order when the template was built.
	s := newStore(t)
	_, err := s.Use(t.Context(), ingredients("a"), quick)
	check(t, err)
	check(t, os.Chmod(s.dir, 0o777))
	if _, err := s.Use(t.Context(), ingredients("a"), never(t)); !errdefs.IsPermissionDenied(err) {
		t.Errorf("a template that anybody could have put there: %v", err)
	}
}
