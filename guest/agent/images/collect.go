package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

// Collect removes what no image and no overlay needs; with purge, the images themselves before. With dryRun it only tells what it would
// remove. Layers that somebody holds, such as a pull under way, stay.
func (s *Store) Collect(ctx context.Context, dryRun, purge bool) (result protocol.GarbageCollected, err error) {
	result.DryRun = dryRun
	result.Images = []string{}
	if purge {
		all, err := s.records()
		if err != nil {
			return result, err
		}
		for _, image := range all {
			result.Images = append(result.Images, image.Info.Reference)
			if dryRun {
				continue
			}
			if err := os.Remove(s.recordPath(image.Info.Reference)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return result, fmt.Errorf("remove image %s: %w", image.Info.Reference, err)
			}
		}
	}
	// Held first: an image that a pull writes down from here on needs none of these.
	idle, err := s.idleLayers()
	defer func() {
		for _, lock := range idle {
			lock.Close()
		}
	}()
	if err != nil {
		return result, err
	}
	used, err := s.usedLayers(purge)
	if err != nil {
		return result, err
	}
	for path, lock := range idle {
		if used[filepath.Base(path)] {
			continue
		}
		if err := ctx.Err(); err != nil {
			return result, err
		}
		size, err := diskUsage(path)
		if err != nil {
			return result, err
		}
		if !dryRun {
			if err := s.discard(path); err != nil {
				return result, fmt.Errorf("remove layer %s: %w", filepath.Base(path), err)
			}
		}
		result.Layers++
		result.FreedBytes += size
		_ = lock
	}
	return result, nil
}

// idleLayers locks every layer that nobody holds.
func (s *Store) idleLayers() (map[string]*os.File, error) {
	idle := map[string]*os.File{}
	dir := filepath.Join(s.Root, layersDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return idle, fmt.Errorf("list layers: %w", err)
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		lock, err := lockPath(path, unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return idle, err
		}
		idle[path] = lock
	}
	return idle, nil
}

// usedLayers are the directories of the layers of every overlay and, unless they are purged, every image.
func (s *Store) usedLayers(purge bool) (map[string]bool, error) {
	used := map[string]bool{}
	use := func(chain []string) {
		for _, id := range chain {
			used[hexOf(id)] = true
		}
	}
	if !purge {
		all, err := s.records()
		if err != nil {
			return nil, err
		}
		for _, image := range all {
			use(image.Chain)
		}
	}
	overlays, err := os.ReadDir(filepath.Join(s.Root, overlaysDir))
	if err != nil {
		return nil, fmt.Errorf("list overlays: %w", err)
	}
	for _, entry := range overlays {
		is, err := readJSON[overlayRecord](filepath.Join(s.overlayPath(entry.Name()), overlayFile))
		if errors.Is(err, fs.ErrNotExist) { // cleaned up meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		use(is.Chain)
	}
	return used, nil
}

// discard removes a directory of the store: its name is gone at once, its files after that.
func (s *Store) discard(path string) (err error) {
	trash, lock, err := s.stage()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(trash), lock.Close()) }()
	return os.Rename(path, filepath.Join(trash, "discarded"))
}

// diskUsage is what the files below a directory take, in bytes; one with several names counts once.
func diskUsage(dir string) (uint64, error) {
	var bytes uint64
	seen := map[uint64]bool{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var status unix.Stat_t
		if err := unix.Lstat(path, &status); err != nil {
			return err
		}
		if status.Nlink > 1 && seen[status.Ino] {
			return nil
		}
		seen[status.Ino] = status.Nlink > 1
		bytes += uint64(status.Blocks) * 512
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("measure %s: %w", dir, err)
	}
	return bytes, nil
}
