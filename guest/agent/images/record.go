package images

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/limpet-run/limpet/guest/protocol"
)

// record is what the store remembers of an image.
type record struct {
	Info protocol.ImageInfo `json:"info"`
	// Chain has the chain ids of the layers, the lowest first.
	Chain []string `json:"chain"`
}

func (s *Store) recordPath(reference string) string {
	sum := sha256.Sum256([]byte(reference))
	return filepath.Join(s.Root, imagesDir, hex.EncodeToString(sum[:])+".json")
}

// keep writes an image down, in place of one with the same reference.
func (s *Store) keep(image record) error {
	if all, err := s.records(); err != nil {
		return err
	} else if len(all) >= maxImages {
		return fmt.Errorf("there are %d images: remove some (garbage_collect): %w", len(all), errdefs.ErrResourceExhausted)
	}
	return s.writeJSON(s.recordPath(image.Info.Reference), image)
}

// writeJSON writes a file as a whole or not at all.
func (s *Store) writeJSON(path string, content any) (err error) {
	text, err := json.Marshal(content)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	staged, lock, err := s.stage()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(staged), lock.Close()) }()
	partial := filepath.Join(staged, "new")
	if err := os.WriteFile(partial, text, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := syncFileSystem(lock); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(partial, path)
}

// records returns all images, in the order of their references.
func (s *Store) records() ([]record, error) {
	entries, err := os.ReadDir(filepath.Join(s.Root, imagesDir))
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var all []record
	for _, entry := range entries {
		image, err := readJSON[record](filepath.Join(s.Root, imagesDir, entry.Name()))
		if errors.Is(err, fs.ErrNotExist) { // removed meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, image)
	}
	slices.SortFunc(all, func(a, b record) int { return strings.Compare(a.Info.Reference, b.Info.Reference) })
	return all, nil
}

func readJSON[T any](path string) (T, error) {
	var content T
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &content)
	}
	if err != nil {
		return content, fmt.Errorf("read %s: %w", path, err)
	}
	return content, nil
}

// find returns the image of that reference or digest.
func (s *Store) find(text string) (record, error) {
	all, err := s.records()
	if err != nil {
		return record{}, err
	}
	full := text
	if ref, err := parseReference(text, s.Share); err == nil {
		full = ref.text
	}
	for _, image := range all {
		if image.Info.Reference == full || image.Info.Digest == text {
			return image, nil
		}
	}
	return record{}, fmt.Errorf("image %.256q is not here, pull it first: %w", text, errdefs.ErrNotFound)
}

// Query returns what is known of an image, by its reference or digest. errdefs.ErrNotFound: it has not been pulled.
func (s *Store) Query(image string) (protocol.ImageInfo, error) {
	found, err := s.find(image)
	return found.Info, err
}

// List returns what is known of every image, in the order of their references.
func (s *Store) List() ([]protocol.ImageInfo, error) {
	all, err := s.records()
	list := []protocol.ImageInfo{}
	for _, image := range all {
		list = append(list, image.Info)
	}
	return list, err
}
