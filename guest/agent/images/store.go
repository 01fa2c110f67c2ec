package images

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// The directories of a store.
const (
	imagesDir   = "images"
	layersDir   = "layers"
	overlaysDir = "overlays"
	stagingDir  = "staging"

	filesDir = "fs" // in a layer's directory
)

// Options are what a Store needs of its surroundings.
type Options struct {
	Root  string // the store's directory
	Share string // where local images are read: oci-layout: and docker-archive: name paths below it
	// FindDisk returns the path of the block device whose serial number that is, or an ErrNotFound.
	FindDisk func(serial string) (string, error)
	Mkfs     string // path of mke2fs
	Logger   *slog.Logger
}

// Store is the images of a machine. Several processes may have the same one open.
type Store struct {
	Options
}

// Open makes the store's directories if they are not there, mounts the storage disk if there is one with a file system, and removes what
// processes that are gone have left half-done.
func Open(options Options) (*Store, error) {
	s := &Store{options}
	if err := s.mountStorage(); err != nil {
		return nil, err
	}
	if err := s.makeDirectories(); err != nil {
		return nil, err
	}
	return s, s.sweep()
}

func (s *Store) makeDirectories() error {
	for _, name := range []string{imagesDir, layersDir, overlaysDir, stagingDir} {
		// Whoever is root in a container's user namespace finds the way to its root file system.
		if err := os.MkdirAll(filepath.Join(s.Root, name), 0o711); err != nil {
			return fmt.Errorf("make the image store: %w", err)
		}
	}
	return nil
}

// sweep removes from staging what nobody holds.
func (s *Store) sweep() error {
	entries, err := os.ReadDir(filepath.Join(s.Root, stagingDir))
	if err != nil {
		return fmt.Errorf("look for what is half-done: %w", err)
	}
	var errs []error
	for _, entry := range entries {
		path := filepath.Join(s.Root, stagingDir, entry.Name())
		lock, err := lockPath(path, unix.LOCK_EX|unix.LOCK_NB)
		if err != nil {
			continue // in use, or gone
		}
		errs = append(errs, os.RemoveAll(path), lock.Close())
	}
	return errors.Join(errs...)
}

// stage makes a directory in staging, which is the caller's to remove or to move. The lock is to be closed after that.
func (s *Store) stage() (path string, lock *os.File, err error) {
	for {
		if path, err = os.MkdirTemp(filepath.Join(s.Root, stagingDir), ""); err != nil {
			return "", nil, fmt.Errorf("make a staging directory: %w", err)
		}
		lock, err = lockPath(path, unix.LOCK_EX)
		if !errors.Is(err, fs.ErrNotExist) { // else somebody has swept it away
			return path, lock, err
		}
	}
}

// lockPath locks a file or directory (flock(2)) and makes sure that it is still the one of that name: else it is an fs.ErrNotExist.
func lockPath(path string, how int) (*os.File, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := relock(file, how); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// relock changes the lock of a file, see lockPath.
func relock(file *os.File, how int) error {
	if err := unix.Flock(int(file.Fd()), how); err != nil {
		return fmt.Errorf("lock %s: %w", file.Name(), err)
	}
	return stillThere(file, file.Name())
}

func stillThere(file *os.File, path string) error {
	locked, err := file.Stat()
	if err != nil {
		return err
	}
	named, err := os.Lstat(path)
	if err == nil && !os.SameFile(locked, named) {
		err = fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	}
	return err
}

// layerPath is the directory of a layer, which is never empty, so that none can be moved onto it. layerFiles is what overlayfs takes.
func (s *Store) layerPath(chain string) string  { return filepath.Join(s.Root, layersDir, hexOf(chain)) }
func (s *Store) layerFiles(chain string) string { return filepath.Join(s.layerPath(chain), filesDir) }

// hexOf is a digest without its algorithm.
func hexOf(digest string) string {
	_, hex, _ := strings.Cut(digest, ":")
	return hex
}

// holdLayer keeps a layer from being removed until the file is closed. errdefs.ErrNotFound: there is no such layer.
func (s *Store) holdLayer(chain string) (*os.File, error) {
	lock, err := lockPath(s.layerPath(chain), unix.LOCK_SH)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("layer %s: %w", chain, errdefs.ErrNotFound)
	}
	return lock, err
}

// adopt makes a staged directory the layer of that chain id, and keeps hold of it. If somebody else was first, his is as good.
func (s *Store) adopt(staged string, lock *os.File, chain string) (*os.File, error) {
	if err := syncFileSystem(lock); err != nil {
		return nil, fmt.Errorf("write layer %s back: %w", chain, err)
	}
	if err := os.Rename(staged, s.layerPath(chain)); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("keep layer %s: %w", chain, err)
	}
	// The staging lock is exclusive: nobody else could count on the layer until it is closed.
	if err := lock.Close(); err != nil {
		return nil, err
	}
	return s.holdLayer(chain)
}

// syncFileSystem makes sure that what is moved into place is on the disk before its name is.
func syncFileSystem(file *os.File) error { return unix.Syncfs(int(file.Fd())) }
