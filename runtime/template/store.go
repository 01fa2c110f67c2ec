// Package template keeps templates: machines that were saved before they had an identity, and of which sandboxes are clones.
//
//	          Use: one builds,            all others
//	          the others wait             find it there
//	absent ─────────────────▶ building ─────────────────▶ ready ──▶ removed
//	   ▲                          │                          │         Remove, or a newer one of the same
//	   │          fails           │                          │         configuration is ready
//	   └──────────────────────────┘◀─────────────────────────┘
//	                                  Discard: it is no good
//
// A template is a directory below the store's, by the name of its ingredients' sum; a name that begins with a dot is one that is being
// built or removed. A clone opens a template's files when it begins, and needs the directory no more then.
package template

import (
	"cmp"
	"context"
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
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/internal/atomicfile"
)

const (
	// aboutFile says what a template is; it is written last.
	aboutFile = "template.json"
	// buildPrefix and removePrefix begin the names of directories that are no templates yet or any more.
	buildPrefix, removePrefix = ".building-", ".removed-"
	lockSuffix                = ".lock"
	// idBytes of the sum name a template.
	idBytes = 8
)

// Template is one that is ready.
type Template struct {
	ID          string                  `json:"id"`
	Dir         string                  `json:"dir"`
	Made        time.Time               `json:"made"`
	BuildMS     int64                   `json:"build_ms"` // how long its making took
	Bytes       int64                   `json:"bytes"`    // what it takes of the disk
	Ingredients []hypervisor.Ingredient `json:"ingredients"`
}

// ID names the template that has these ingredients.
func ID(ingredients []hypervisor.Ingredient) string {
	sum := sha256.New()
	for _, ingredient := range ingredients {
		fmt.Fprintf(sum, "%q %q\n", ingredient.Name, ingredient.Value)
	}
	return hex.EncodeToString(sum.Sum(nil)[:idBytes])
}

// Builder saves a machine in a directory, which is there and empty. On error what it has written there goes.
type Builder func(ctx context.Context, dir string) error

// Store is a directory of templates. Several processes can use it at the same time.
type Store struct{ dir string }

// Open returns the store in a directory, which is made when it is first needed.
func Open(dir string) *Store { return &Store{dir} }

// Use returns the directory of the template with these ingredients. If there is none it is built, by one of those who ask at the same
// time; the others wait for it until their context ends. What is returned may be removed by others at any time. errdefs.ErrPermissionDenied:
// the store's directory is not ours alone.
func (s *Store) Use(ctx context.Context, ingredients []hypervisor.Ingredient, build Builder) (string, error) {
	id := ID(ingredients)
	dir := filepath.Join(s.dir, id)
	if err := s.checkOwner(); err == nil && isReady(dir) {
		return dir, nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return "", fmt.Errorf("make the directory of templates: %w", err)
	}
	unlock, err := s.lock(ctx, id)
	if err != nil {
		return "", err
	}
	defer unlock()
	if isReady(dir) { // others were faster
		return dir, nil
	}
	if err := s.build(ctx, id, ingredients, build); err != nil {
		return "", fmt.Errorf("build template %s: %w", id, err)
	}
	return dir, nil
}

func isReady(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, aboutFile))
	return err == nil
}

// checkOwner makes sure that nobody else has put templates there: a clone does what its template says.
func (s *Store) checkOwner() error {
	info, err := os.Stat(s.dir)
	if err != nil {
		return err
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; owner != uint32(os.Geteuid()) || info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("the directory of templates %s belongs to the user %d and has the mode %#o: make it ours alone (chown, chmod 700), "+
			"or set another (template.dir): %w", s.dir, owner, info.Mode().Perm(), errdefs.ErrPermissionDenied)
	}
	return nil
}

// lock makes this process the one that builds or removes that template.
func (s *Store) lock(ctx context.Context, id string) (unlock func(), err error) {
	file, err := os.OpenFile(filepath.Join(s.dir, "."+id+lockSuffix), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock template %s: %w", id, err)
	}
	locked := make(chan error, 1)
	go func() { locked <- ignoreEINTR(func() error { return unix.Flock(int(file.Fd()), unix.LOCK_EX) }) }()
	unlock = func() { file.Close() } // with the last descriptor the lock goes
	select {
	case err := <-locked:
		if err != nil {
			unlock()
			return nil, fmt.Errorf("lock template %s: %w", id, err)
		}
		return unlock, nil
	case <-ctx.Done():
		go func() { // a lock cannot be taken from who waits for it
			<-locked
			unlock()
		}()
		return nil, fmt.Errorf("wait for template %s, which another process builds: %w", id, context.Cause(ctx))
	}
}

func ignoreEINTR(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

// build makes a template and takes away those that it replaces. The caller has the lock.
func (s *Store) build(ctx context.Context, id string, ingredients []hypervisor.Ingredient, build Builder) (err error) {
	began := time.Now()
	building := filepath.Join(s.dir, buildPrefix+id)
	if err := os.RemoveAll(building); err != nil { // of a builder that was killed
		return err
	}
	if err := os.Mkdir(building, 0o700); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(building))
		}
	}()
	if err := build(ctx, building); err != nil {
		return err
	}
	about := Template{ID: id, Made: began, BuildMS: time.Since(began).Milliseconds(), Ingredients: ingredients}
	if err := atomicfile.WriteJSON(filepath.Join(building, aboutFile), about); err != nil {
		return err
	}
	dir := filepath.Join(s.dir, id)
	if err := os.RemoveAll(dir); err != nil { // one that was not ready
		return err
	}
	if err := os.Rename(building, dir); err != nil {
		return err
	}
	return s.removeReplaced(id, ingredients)
}

// removeReplaced removes the templates of the same configuration whose files have changed since: nobody can ask for them any more.
func (s *Store) removeReplaced(id string, ingredients []hypervisor.Ingredient) error {
	templates, err := s.List()
	if err != nil {
		return err
	}
	for _, template := range templates {
		if template.ID != id && replaces(ingredients, template.Ingredients) {
			if err := s.Remove(template.ID); err != nil && !errdefs.IsNotFound(err) {
				return err
			}
		}
	}
	return nil
}

// replaces tells whether a template takes the place of another: whether both have the same arguments.
func replaces(ingredients, old []hypervisor.Ingredient) bool {
	arguments := func(ingredients []hypervisor.Ingredient) string {
		for _, ingredient := range ingredients {
			if ingredient.Name == hypervisor.IngredientArguments {
				return ingredient.Value
			}
		}
		return ""
	}
	return arguments(ingredients) == arguments(old)
}

// List returns the templates that are ready, the newest first. A store that was never used has none.
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
		if !entry.IsDir() || strings.HasPrefix(entry.Name(), ".") {
			continue
		}
		template, err := read(filepath.Join(s.dir, entry.Name()))
		if errors.Is(err, fs.ErrNotExist) { // it is not ready, or has gone
			continue
		}
		if err != nil {
			return nil, err
		}
		templates = append(templates, template)
	}
	slices.SortFunc(templates, func(a, b Template) int { return cmp.Or(b.Made.Compare(a.Made), cmp.Compare(a.ID, b.ID)) })
	return templates, nil
}

// read reads what is said of a template, and looks at how much room it takes.
func read(dir string) (Template, error) {
	text, err := os.ReadFile(filepath.Join(dir, aboutFile))
	if err != nil {
		return Template{}, err
	}
	var template Template
	if err := json.Unmarshal(text, &template); err != nil {
		return Template{}, fmt.Errorf("template %s: %s: %w: remove it", filepath.Base(dir), aboutFile, err)
	}
	template.ID, template.Dir = filepath.Base(dir), dir
	files, err := os.ReadDir(dir)
	if err != nil {
		return Template{}, err
	}
	for _, file := range files {
		info, err := file.Info()
		if err != nil {
			return Template{}, err
		}
		template.Bytes += info.Sys().(*syscall.Stat_t).Blocks * 512
	}
	return template, nil
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
		return Template{}, fmt.Errorf("template %s: %w", prefix, errdefs.ErrNotFound)
	case 1:
		return found[0], nil
	}
	return Template{}, fmt.Errorf("%d templates begin with %s: give more of the identifier: %w", len(found), prefix, errdefs.ErrInvalidArgument)
}

// Remove removes a template, while clones of it run, too. errdefs.ErrNotFound: there is none of that identifier.
func (s *Store) Remove(id string) error {
	if id == "" || strings.HasPrefix(id, ".") || filepath.Base(id) != id {
		return fmt.Errorf("%q is no template's identifier: %w", id, errdefs.ErrInvalidArgument)
	}
	dir := filepath.Join(s.dir, id)
	away, err := os.MkdirTemp(s.dir, removePrefix)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("template %s: %w", id, errdefs.ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("remove template %s: %w", id, err)
	}
	err = os.Rename(dir, filepath.Join(away, id)) // at once, so that nobody finds half of it
	if errors.Is(err, fs.ErrNotExist) {
		err = errdefs.ErrNotFound
	}
	if err := errors.Join(err, os.RemoveAll(away)); err != nil {
		return fmt.Errorf("remove template %s: %w", id, err)
	}
	return nil
}

// Discard removes the template with these ingredients because it is no good. The next who asks builds it again.
func (s *Store) Discard(ingredients []hypervisor.Ingredient) error {
	err := s.Remove(ID(ingredients))
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}
