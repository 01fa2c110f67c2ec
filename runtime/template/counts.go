package template

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/limpet-run/limpet/internal/printable"
)

const (
	countsFile = "counts.json"
	// maxBoots is how many boots are remembered with their reasons, and maxReason how many bytes of each.
	maxBoots, maxReason = 10, 300
	// maxCounts is how many bytes the file may have: six for each of a reason, as JSON may write them, and as much for the rest.
	maxCounts = 2 * maxBoots * 6 * maxReason
)

// Counts is how often sandboxes could be clones.
type Counts struct {
	Since  time.Time `json:"since"` // zero: nothing was counted
	Clones uint64    `json:"clones"`
	Boots  uint64    `json:"boots"` // of sandboxes that were to be clones, and could not
	Last   []Boot    `json:"last"`  // of the boots the last ones, the latest first
}

// Boot is one of a sandbox that could not be a clone.
type Boot struct {
	At      time.Time `json:"at"`
	Sandbox string    `json:"sandbox"`
	Reason  string    `json:"reason"`
}

// CountClone notes that a sandbox is a clone. It waits for others who count until its context ends.
func (s *Store) CountClone(ctx context.Context) error {
	return s.count(ctx, func(counts *Counts, _ time.Time) { counts.Clones++ })
}

// CountBoot notes that a sandbox boots because it could not be a clone. It waits for others who count until its context ends.
func (s *Store) CountBoot(ctx context.Context, sandbox string, reason error) error {
	return s.count(ctx, func(counts *Counts, now time.Time) { counts.boot(now, sandbox, reason.Error()) })
}

func (c *Counts) boot(now time.Time, sandbox, reason string) {
	c.Boots++
	c.Last = append([]Boot{{now, sandbox, printable.Short(reason, maxReason)}}, c.Last...)
	c.Last = c.Last[:min(len(c.Last), maxBoots)]
}

// count changes the counts. They are written in place, by who has the lock: a start does not wait for more than that.
func (s *Store) count(ctx context.Context, change func(*Counts, time.Time)) (err error) {
	if err := s.Check(); err != nil {
		return err
	}
	file, err := s.lock(ctx, countsFile)
	if err != nil {
		return fmt.Errorf("count a start: %w", err)
	}
	defer func() {
		if err = errors.Join(err, file.Close()); err != nil {
			err = fmt.Errorf("count a start in %s: %w", file.Name(), err)
		}
	}()
	counts, err := decodeCounts(file)
	if err != nil {
		counts = Counts{} // who was killed, or had no room, has left half of them: they begin anew
	}
	now := time.Now()
	if counts.Since.IsZero() {
		counts.Since = now
	}
	change(&counts, now)
	text, err := json.Marshal(counts)
	if err != nil {
		return err
	}
	if _, err := file.WriteAt(text, 0); err != nil {
		return err
	}
	return file.Truncate(int64(len(text)))
}

// Counts returns what was counted. It waits for who counts until its context ends.
func (s *Store) Counts(ctx context.Context) (Counts, error) {
	if _, err := os.Stat(filepath.Join(s.dir, countsFile)); errors.Is(err, fs.ErrNotExist) {
		return Counts{Last: []Boot{}}, nil
	}
	file, err := s.lock(ctx, countsFile)
	if err != nil {
		return Counts{}, fmt.Errorf("read how many clones there were: %w", err)
	}
	defer file.Close()
	counts, err := decodeCounts(file)
	if err != nil {
		return Counts{}, fmt.Errorf("read how many clones there were: %s: %w: the next start begins anew", file.Name(), err)
	}
	return counts, nil
}

func decodeCounts(file io.Reader) (Counts, error) {
	counts := Counts{Last: []Boot{}}
	text, err := io.ReadAll(io.LimitReader(file, maxCounts))
	if err != nil || len(text) == 0 { // nobody has counted yet
		return counts, err
	}
	err = json.Unmarshal(text, &counts)
	return counts, err
}
