package install

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	newSuffix = ".limpet-new" // a file that takes its place when it is complete
	oldSuffix = ".limpet-old" // what was in its place, until the whole installation is done
)

// application is changes that are made and can be taken back, of each path at most one.
type application struct {
	host  host
	undo  []func() error
	clean []string
}

// apply makes the changes one by one. If one fails the error says which, and those before it are taken back.
func (a *application) apply(changes []Change, made func(Change)) error {
	for _, change := range changes {
		if err := a.change(change); err != nil {
			return errors.Join(fmt.Errorf("%s: %w", change, err), a.takeBack())
		}
		made(change)
	}
	return nil
}

// change makes one change: the file is there as it was, or as it is to be, at every moment.
func (a *application) change(change Change) error {
	path, err := a.host.path(change.Path)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if !change.Remove {
		defer os.Remove(path + newSuffix) // what a failure has left
		if err := write(path+newSuffix, change); err != nil {
			return err
		}
	}
	if err := a.keep(path); err != nil {
		return err
	}
	if change.Remove {
		return os.Remove(path)
	}
	return os.Rename(path+newSuffix, path)
}

// keep gives what is at path a second name, and registers how to go back.
func (a *application) keep(path string) error {
	old := path + oldSuffix
	if err := os.Remove(old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := os.Link(path, old)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		a.undo = append(a.undo, func() error {
			if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return nil
		})
	case err != nil:
		return err
	default:
		a.undo = append(a.undo, func() error { return rename(old, path) })
		a.clean = append(a.clean, old)
	}
	return nil
}

// rename puts a file in the place of another. If both are names of the same file, rename(2) leaves both.
func rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	if err := os.Remove(from); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func write(path string, change Change) (err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, change.Mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := file.Chmod(change.Mode); err != nil { // whatever the umask
		return err
	}
	if change.Copy == "" {
		_, err = file.Write(change.Text)
	} else {
		err = copyTo(file, change.Copy)
	}
	if err != nil {
		return err
	}
	return file.Sync()
}

func copyTo(w io.Writer, path string) error {
	source, err := os.Open(path)
	if err != nil {
		return err
	}
	defer source.Close()
	_, err = io.Copy(w, source)
	return err
}

// takeBack undoes every change, the last one first.
func (a *application) takeBack() error {
	var errs []error
	for i := len(a.undo) - 1; i >= 0; i-- {
		if err := a.undo[i](); err != nil {
			errs = append(errs, fmt.Errorf("take a change back: %w", err))
		}
	}
	a.undo, a.clean = nil, nil
	return errors.Join(errs...)
}

// commit ends the possibility to take the changes back.
func (a *application) commit() error {
	var errs []error
	for _, old := range a.clean {
		errs = append(errs, os.Remove(old))
	}
	a.undo, a.clean = nil, nil
	return errors.Join(errs...)
}
