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
// built or removed, or was when who did it was killed: the next to build takes it away. A clone opens a template's files when it begins,
// and needs the directory no more then.
//
// Beside the templates the store counts how many sandboxes were clones, and how many could not be (Counts).
package template

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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
	// lockFile is locked by who builds: one at a time, whatever it is that is built.
	lockFile = ".build.lock"
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
	Problem     string                  `json:"problem,omitempty"` // why it is no good; empty: nobody has found anything
}

// ID names the template that has these ingredients.
func ID(ingredients []hypervisor.Ingredient) string {
	sum := sha256.New()
	for _, ingredient := range ingredients {
		fmt.Fprintf(sum, "%q %q %q\n", ingredient.Name, ingredient.Path, ingredient.Value)
	}
	return hex.EncodeToString(sum.Sum(nil)[:idBytes])
}

// isID tells whether a text can be what ID returns.
func isID(text string) bool {
	sum, err := hex.DecodeString(text)
	return err == nil && len(sum) == idBytes && strings.ToLower(text) == text
}

// Builder saves a machine in a directory, which is there and empty. On error what it has written there goes.
type Builder func(ctx context.Context, dir string) error

// Store is a directory of templates. Several processes can use it at the same time.
type Store struct{ dir string }

// Open returns the store in a directory, which is made when it is first needed.
func Open(dir string) *Store { return &Store{dir} }

// Use returns the directory of the template with these ingredients. If there is none it is built, by one of those who ask at the same
// time; the others wait for it until their context ends. What is returned may be removed by others at any time.
// errdefs.ErrPermissionDenied: the store's directory is not ours alone.
func (s *Store) Use(ctx context.Context, ingredients []hypervisor.Ingredient, build Builder) (string, error) {
	id := ID(ingredients)
	dir := filepath.Join(s.dir, id)
	if err := s.Check(); err != nil {
		return "", err
	}
	if isReady(dir) {
		return dir, nil
	}
	lock, err := s.lock(ctx, lockFile)
	if err != nil {
		return "", fmt.Errorf("wait for template %s: %w", id, err)
	}
	defer lock.Close()
	if isReady(dir) { // others were faster
		return dir, nil
	}
	if err := s.build(ctx, id, ingredients, build); err != nil {
		return "", fmt.Errorf("build template %s: %w", id, err)
	}
	return dir, nil
}

// Has tells whether the template of that identifier is ready.
func (s *Store) Has(id string) bool { return isReady(filepath.Join(s.dir, id)) }

func isReady(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, aboutFile))
	return err == nil
}

// Check makes sure that nobody else has put templates there: a clone does what its template says. A directory that is not there yet will
// be ours.
func (s *Store) Check() error {
	info, err := os.Stat(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at the directory of templates: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is no directory: set another for templates (template.dir): %w", s.dir, errdefs.ErrPermissionDenied)
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; owner != uint32(os.Geteuid()) || info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("the directory of templates %s belongs to the user %d and has the mode %#o: make it ours alone (chown, chmod 700), "+
			"or set another (template.dir): %w", s.dir, owner, info.Mode().Perm(), errdefs.ErrPermissionDenied)
	}
	return nil
}

// lock opens a file of the store for us alone, until it is closed. It makes the store's directory if need be.
func (s *Store) lock(ctx context.Context, name string) (*os.File, error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of templates: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(s.dir, name), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	locked := make(chan error, 1)
	go func() { locked <- ignoreEINTR(func() error { return unix.Flock(int(file.Fd()), unix.LOCK_EX) }) }()
	select {
	case err := <-locked:
		if err != nil {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", file.Name(), err), file.Close())
		}
		return file, nil
	case <-ctx.Done():
		go func() { // a lock cannot be taken from who waits for it
			<-locked
			file.Close()
		}()
		return nil, fmt.Errorf("lock %s, which another process holds: %w", file.Name(), context.Cause(ctx))
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
	if err := s.removeLeftovers(); err != nil {
		return err
	}
	building := filepath.Join(s.dir, buildPrefix+id)
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
		if template.ID != id && arguments(ingredients) == arguments(template.Ingredients) {
			if err := s.Remove(template.ID); err != nil && !errdefs.IsNotFound(err) {
				return err
			}
		}
	}
	return nil
}

// arguments is what the configuration says of a template's machine.
func arguments(ingredients []hypervisor.Ingredient) string {
	for _, ingredient := range ingredients {
		if ingredient.Name == hypervisor.IngredientArguments {
			return ingredient.Value
		}
	}
	return ""
}

// removeLeftovers removes what those have left who were killed while they built or removed a template. The caller has the lock.
func (s *Store) removeLeftovers() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), buildPrefix) || strings.HasPrefix(entry.Name(), removePrefix) {
			if err := os.RemoveAll(filepath.Join(s.dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// RemoveLeftovers removes what those have left who were killed while they built or removed a template. It waits for who builds one.
func (s *Store) RemoveLeftovers(ctx context.Context) error {
	if _, err := os.Stat(s.dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	lock, err := s.lock(ctx, lockFile)
	if err != nil {
		return err
	}
	defer lock.Close()
	return s.removeLeftovers()
}
