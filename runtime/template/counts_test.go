package template

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestCounts(t *testing.T) {
	s := newStore(t)
	counts, err := s.Counts(t.Context())
	if err != nil || !counts.Since.IsZero() || counts.Last == nil {
		t.Errorf("of a store that was never used: %+v, %v", counts, err)
	}
	if _, err := os.Stat(s.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("looking makes the directory: %v", err)
	}
	before := time.Now()
	const boots = maxBoots + 3
	for i := range boots {
		check(t, s.CountClone(t.Context()))
		check(t, s.CountBoot(t.Context(), fmt.Sprint("s", i), fmt.Errorf("no \x1b[2J %s", strings.Repeat("\x01", 2*maxReason))))
	}
	counts, err = Open(s.dir).Counts(t.Context())
	check(t, err)
	if counts.Clones != boots || counts.Boots != boots || len(counts.Last) != maxBoots || counts.Since.Before(before) {
		t.Errorf("got %+v", counts)
	}
	for i, boot := range counts.Last {
		if boot.Sandbox != fmt.Sprint("s", boots-1-i) || len(boot.Reason) != maxReason || !strings.HasPrefix(boot.Reason, "no ?[2J ") ||
			boot.At.Before(before) {
			t.Errorf("boot %d: %+v", i, boot)
		}
	}
	info, err := os.Stat(filepath.Join(s.dir, countsFile))
	check(t, err)
	if info.Size() > maxCounts || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %d bytes, %v", info.Size(), info.Mode())
	}
}

// TestCountsLargest has the longest reasons that there can be: the file can be read again.
func TestCountsLargest(t *testing.T) {
	s := newStore(t)
	for range maxBoots + 1 {
		check(t, s.CountBoot(t.Context(), strings.Repeat("<", 128), errors.New(strings.Repeat("<", 2*maxReason))))
	}
	counts, err := s.Counts(t.Context())
	if err != nil || counts.Boots != maxBoots+1 || len(counts.Last) != maxBoots {
		t.Errorf("got %+v, %v", counts, err)
	}
}

// TestCountsBroken has a file that was cut or scribbled upon: it is an error to who looks, and counting begins anew.
func TestCountsBroken(t *testing.T) {
	for _, text := range []string{"{", `{"clones": "many"}`, "\x00\x00", strings.Repeat(" ", 2*maxCounts)} {
		s := newStore(t)
		check(t, os.Mkdir(s.dir, 0o700))
		path := filepath.Join(s.dir, countsFile)
		check(t, os.WriteFile(path, []byte(text), 0o600))
		if counts, err := s.Counts(t.Context()); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%.10q: got %+v, %v", text, counts, err)
		}
		check(t, s.CountClone(t.Context()))
		if counts, err := s.Counts(t.Context()); err != nil || counts.Clones != 1 || counts.Since.IsZero() {
			t.Errorf("%.10q: got %+v, %v", text, counts, err)
		}
	}
}

// TestCountsHeld has somebody keep the lock: who counts does not wait longer than he wants to.
func TestCountsHeld(t *testing.T) {
	s := newStore(t)
	lock, err := s.lock(t.Context(), countsFile)
	check(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := s.CountClone(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	check(t, lock.Close())
	check(t, s.CountClone(t.Context()))
	counts, err := s.Counts(t.Context())
	if err != nil || counts.Clones != 1 {
		t.Errorf("got %+v, %v", counts, err)
	}
}

// TestCountsLink has a link in the place of the file: what it leads to is not touched.
func TestCountsLink(t *testing.T) {
	s := newStore(t)
	check(t, os.Mkdir(s.dir, 0o700))
	victim := filepath.Join(t.TempDir(), "victim")
	check(t, os.WriteFile(victim, []byte("mine"), 0o600))
	check(t, os.Symlink(victim, filepath.Join(s.dir, countsFile)))
	if err := s.CountClone(t.Context()); err == nil {
		t.Error("it counts in a file of another place")
	}
	if text, err := os.ReadFile(victim); err != nil || string(text) != "mine" {
		t.Errorf("read %q, %v", text, err)
	}
}

func BenchmarkCount(b *testing.B) {
	s := Open(filepath.Join(b.TempDir(), "templates"))
	for range maxBoots {
		if err := s.CountBoot(b.Context(), "s", errors.New(strings.Repeat("x", maxReason))); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if err := s.CountClone(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
