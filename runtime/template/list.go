package template

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// List returns the templates that are ready, the newest first. A store that was never used has none. What cannot be read of one is its
// Problem.
func (s *Store) List() ([]Template, error) {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the templates: %w", err)
	}
	var templates []Template
	for _, entry := range entries {
		if !entry.IsDir() || !isID(entry.Name()) {
			continue
		}
		template, err := read(filepath.Join(s.dir, entry.Name()))
		if errors.Is(err, fs.ErrNotExist) { // it is not ready, or has gone
			continue
		}
		if err != nil {
			template.Problem = err.Error()
		}
		templates = append(templates, template)
	}
	slices.SortFunc(templates, func(a, b Template) int { return cmp.Or(b.Made.Compare(a.Made), cmp.Compare(a.ID, b.ID)) })
	return templates, nil
}

// read reads what is said of a template, and looks at how much room it takes. Its identifier and directory are known in any case.
func read(dir string) (template Template, err error) {
	defer func() { template.ID, template.Dir = filepath.Base(dir), dir }()
	text, err := os.ReadFile(filepath.Join(dir, aboutFile))
	if err != nil {
		return template, err
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return template, err
	}
	var bytes int64
	for _, file := range files {
		info, err := file.Info()
		if err != nil {
			return template, err
		}
		bytes += info.Sys().(*syscall.Stat_t).Blocks * 512
	}
	err = json.Unmarshal(text, &template)
	if err != nil {
		err = fmt.Errorf("%s: %w", aboutFile, err)
	}
	template.Bytes = bytes
	return template, err
}

// Find returns the template whose identifier begins with the given text. errdefs.ErrNotFound, errdefs.ErrInvalidArgument: several do.
func (s *Store) Find(prefix string) (Template, error) {
	templates, err := s.List()
	if err != nil {
		return Template{}, err
	}
	var found []Template
	for _, template := range templates {
		if prefix != "" && strings.HasPrefix(template.ID, prefix) {
			found = append(found, template)
		}
	}
	switch len(found) {
	case 0:
		return Template{}, fmt.Errorf("template %q in %s: %w", prefix, s.dir, errdefs.ErrNotFound)
	case 1:
		return found[0], nil
	}
	return Template{}, fmt.Errorf("%d templates begin with %q: give more of the identifier: %w", len(found), prefix, errdefs.ErrInvalidArgument)
}

// Remove removes a template, while clones of it run, too. errdefs.ErrNotFound: there is none of that identifier.
func (s *Store) Remove(id string) error {
	if !isID(id) {
		return fmt.Errorf("%q is no template's identifier: %w", id, errdefs.ErrInvalidArgument)
	}
	away := filepath.Join(s.dir, removePrefix+id+"-"+rand.Text())
	err := os.Rename(filepath.Join(s.dir, id), away) // at once, so that nobody finds half of it
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("template %s in %s: %w", id, s.dir, errdefs.ErrNotFound)
	}
	if err == nil {
		err = os.RemoveAll(away)
	}
	if err != nil {
		return fmt.Errorf("remove template %s: %w", id, err)
	}
	return nil
}

// Clear removes all templates and everything else of the store's, and its directory if nothing of others is in it, when nobody starts
// sandboxes any more. It waits for who builds a template until its context ends.
func (s *Store) Clear(ctx context.Context) error {
	if _, err := os.Stat(s.dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := s.Check(); err != nil {
		return err
	}
	lock, err := s.lock(ctx, lockFile)
	if err != nil {
		return err
	}
	defer lock.Close()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("list the templates: %w", err)
	}
	var errs []error
	for _, entry := range entries {
		if isID(entry.Name()) {
			errs = append(errs, s.Discard(entry.Name()))
		}
	}
	errs = append(errs, s.removeLeftovers())
	for _, name := range []string{countsFile, lockFile, "."} {
		err := os.Remove(filepath.Join(s.dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Discard removes the template of that identifier because it is no good. The next who asks builds it again.
func (s *Store) Discard(id string) error {
	err := s.Remove(id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}
