package template

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
)

// TestList lists templates among what else may be in a store.
func TestList(t *testing.T) {
	s := newStore(t)
	if list, err := s.List(); err != nil || len(list) > 0 {
		t.Errorf("of a store that was never used: %v, %v", list, err)
	}
	for _, configuration := range []string{"a", "b"} {
		_, err := s.Use(t.Context(), ingredients(configuration), quick)
		check(t, err)
	}
	const broken, half = "0123456789abcdef", "0123456789abcdee"
	for _, dir := range []string{buildPrefix + ID(nil), removePrefix + ID(nil) + "-x", "lost+found", broken, half} {
		check(t, os.Mkdir(filepath.Join(s.dir, dir), 0o700))
	}
	for _, file := range []string{"README", ID(ingredients("c")), filepath.Join(broken, aboutFile), filepath.Join("lost+found", aboutFile)} {
		check(t, os.WriteFile(filepath.Join(s.dir, file), []byte("{"), 0o600))
	}
	list, err := s.List()
	check(t, err)
	var ids []string
	for _, template := range list {
		ids = append(ids, template.ID)
		if template.Dir != filepath.Join(s.dir, template.ID) || (template.Problem == "") != (template.ID != broken) {
			t.Errorf("got %+v", template)
		}
		if template.Problem == "" && (template.Made.IsZero() || template.Bytes == 0 || ID(template.Ingredients) != template.ID) {
			t.Errorf("got %+v", template)
		}
	}
	// The newest first, and the one without a time last.
	if got, want := strings.Join(ids, " "), ID(ingredients("b"))+" "+ID(ingredients("a"))+" "+broken; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	check(t, s.Remove(broken))
	check(t, s.RemoveLeftovers(t.Context()))
	for _, name := range names(t, s.dir) {
		if strings.HasPrefix(name, ".") {
			t.Errorf("left is %s", name)
		}
	}
	check(t, newStore(t).RemoveLeftovers(t.Context()))
}

func TestFind(t *testing.T) {
	s := newStore(t)
	check(t, os.Mkdir(s.dir, 0o700))
	for _, id := range []string{"00aa000000000000", "00ab000000000000", "1111111111111111"} {
		check(t, os.Mkdir(filepath.Join(s.dir, id), 0o700))
		check(t, os.WriteFile(filepath.Join(s.dir, id, aboutFile), []byte("{}"), 0o600))
	}
	for _, test := range []struct {
		prefix, want string
		is           func(error) bool
	}{
		{"1", "1111111111111111", nil},
		{"00ab", "00ab000000000000", nil},
		{"00aa000000000000", "00aa000000000000", nil},
		{"00a", "", errdefs.IsInvalidArgument},
		{"2", "", errdefs.IsNotFound},
		{"", "", errdefs.IsNotFound},
		{"..", "", errdefs.IsNotFound},
	} {
		got, err := s.Find(test.prefix)
		if got.ID != test.want || (test.is == nil) != (err == nil) || err != nil && !test.is(err) {
			t.Errorf("%q: %q, %v", test.prefix, got.ID, err)
		}
	}
}

func TestRemove(t *testing.T) {
	s := newStore(t)
	if err := s.Remove(ID(nil)); !errdefs.IsNotFound(err) {
		t.Errorf("from a store that was never used: %v", err)
	}
	dir, err := s.Use(t.Context(), ingredients("a"), quick)
	check(t, err)
	check(t, s.CountClone(t.Context()))
	memory, err := os.Open(filepath.Join(dir, "memory"))
	check(t, err)
	defer memory.Close()
	for _, id := range []string{"", ".", "..", countsFile, lockFile, "../templates", filepath.Join("..", "templates", filepath.Base(dir))} {
		if err := s.Remove(id); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", id, err)
		}
	}
	check(t, s.Remove(filepath.Base(dir)))
	if err := s.Remove(filepath.Base(dir)); !errdefs.IsNotFound(err) {
		t.Errorf("a second time: %v", err)
	}
	if got := names(t, s.dir); len(got) > 0 {
		t.Errorf("left are %q", got)
	}
	if text, err := io.ReadAll(memory); err != nil || string(text) != "a machine" { // who has opened it goes on
		t.Errorf("read %q, %v", text, err)
	}
}

// TestClear clears a store. What is not the store's stays, and so does a directory that is not ours.
func TestClear(t *testing.T) {
	s := newStore(t)
	check(t, s.Clear(t.Context()))
	for _, mine := range []bool{false, true} {
		_, err := s.Use(t.Context(), ingredients("a"), quick)
		check(t, err)
		check(t, s.CountClone(t.Context()))
		check(t, os.Mkdir(filepath.Join(s.dir, buildPrefix+ID(nil)), 0o700))
		check(t, os.Mkdir(filepath.Join(s.dir, ID(nil)), 0o700))
		if mine {
			check(t, os.WriteFile(filepath.Join(s.dir, "mine"), nil, 0o600))
		}
		check(t, os.Chmod(s.dir, 0o755))
		if err := s.Clear(t.Context()); !errdefs.IsPermissionDenied(err) {
			t.Errorf("got %v", err)
		}
		check(t, os.Chmod(s.dir, 0o700))
		check(t, s.Clear(t.Context()))
		left, err := os.ReadDir(s.dir)
		if mine && (err != nil || len(left) != 1 || left[0].Name() != "mine") || !mine && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("left are %v, %v", left, err)
		}
	}
}

// TestRemoveDuringUse removes templates again and again while others use them: they are whole or not there.
func TestRemoveDuringUse(t *testing.T) {
	s := newStore(t)
	done := make(chan struct{})
	var users, removers sync.WaitGroup
	removers.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if err := s.Remove(ID(ingredients("a"))); err != nil && !errdefs.IsNotFound(err) {
				t.Error(err)
			}
			if err := s.RemoveLeftovers(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
	for range 10 {
		users.Go(func() {
			for range 20 {
				dir, err := s.Use(t.Context(), ingredients("a"), quick)
				if err != nil {
					t.Error(err)
					return
				}
				text, err := os.ReadFile(filepath.Join(dir, "memory"))
				if err != nil && !errors.Is(err, os.ErrNotExist) || err == nil && string(text) != "a machine" {
					t.Errorf("read %q, %v", text, err)
				}
			}
		})
	}
	users.Wait()
	close(done)
	removers.Wait()
}
