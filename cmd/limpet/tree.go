package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// packTree writes a file, or a directory with all that is below it, as a tar archive in which it has that name. The files are root's there.
// It returns what was left out: what is neither file, directory nor symbolic link.
func packTree(to io.Writer, tree, name string) (left []string, err error) {
	archive := tar.NewWriter(to)
	err = filepath.WalkDir(tree, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		below, err := filepath.Rel(tree, file)
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		target := ""
		switch info.Mode().Type() {
		case 0, fs.ModeDir:
		case fs.ModeSymlink:
			if target, err = os.Readlink(file); err != nil {
				return err
			}
		default:
			left = append(left, file)
			return nil
		}
		header, err := tar.FileInfoHeader(info, target)
		if err != nil {
			return err
		}
		header.Name = path.Join(name, filepath.ToSlash(below))
		if info.IsDir() {
			header.Name += "/"
		}
		header.Uid, header.Gid, header.Uname, header.Gname = 0, 0, "", ""
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return nil
		}
		return packFile(archive, file, header.Size)
	})
	if err == nil {
		err = archive.Close()
	}
	if err != nil {
		return left, fmt.Errorf("read %s: %w", tree, err)
	}
	return left, nil
}

// packFile writes what a file has, of which there must be so many bytes.
func packFile(to io.Writer, name string, size int64) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	if n, err := io.Copy(to, file); err != nil || n != size {
		return errors.Join(err, fmt.Errorf("%s: %d bytes, and it had %d: it changes", name, n, size))
	}
	return nil
}

// unpacker makes files of an archive that nobody has looked at: it stays below its root, whatever names and links say, makes no devices
// and no files with the rights of others (set-user-id), and the files are this process's user's.
type unpacker struct {
	root *os.Root
	dirs []*tar.Header // whose modes and times are set in the end
	left []string      // what was left out
}

var errNothingSent = errors.New("nothing was sent")

// unpackTree makes the tree that an archive has under the name from, under the name to in a directory. It returns what was left out: what
// is neither file, directory nor link.
func unpackTree(archive io.Reader, from, directory, to string) (left []string, err error) {
	root, err := os.OpenRoot(directory)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	u := &unpacker{root: root}
	found := false
	for reader := tar.NewReader(archive); ; {
		header, err := reader.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return u.left, fmt.Errorf("read what was sent: %w", err)
		}
		var ok bool
		if header.Name, ok = rename(header.Name, from, to); !ok {
			return u.left, fmt.Errorf("the archive has %q, which was not asked for", header.Name)
		}
		if header.Typeflag == tar.TypeLink {
			if header.Linkname, ok = rename(header.Linkname, from, to); !ok {
				return u.left, fmt.Errorf("the archive has a link to %q, which was not asked for", header.Linkname)
			}
		}
		found = true
		if err := u.add(header, reader); err != nil {
			return u.left, err
		}
	}
	if !found {
		return nil, errNothingSent
	}
	for _, header := range slices.Backward(u.dirs) {
		if err := u.finish(header); err != nil {
			return u.left, err
		}
	}
	return u.left, nil
}

// rename gives a name in an archive, from or below it, its place in the file system.
func rename(name, from, to string) (string, bool) {
	clean := path.Clean(name)
	below, ok := strings.CutPrefix(clean+"/", from+"/")
	if !ok {
		return name, false
	}
	return path.Join(to, below), true
}

func (u *unpacker) add(header *tar.Header, content io.Reader) error {
	switch header.Typeflag {
	case tar.TypeDir:
		u.dirs = append(u.dirs, header)
		return u.makeDir(header.Name)
	case tar.TypeReg:
		return u.makeFile(header, content)
	case tar.TypeSymlink:
		if err := u.clear(header.Name); err != nil {
			return err
		}
		return u.root.Symlink(header.Linkname, header.Name)
	case tar.TypeLink:
		if err := u.clear(header.Name); err != nil {
			return err
		}
		return u.root.Link(header.Linkname, header.Name)
	}
	u.left = append(u.left, header.Name)
	return nil
}

// makeDir makes a directory, open to its maker, unless there is one.
func (u *unpacker) makeDir(name string) error {
	err := u.root.Mkdir(name, 0o700)
	if errors.Is(err, fs.ErrExist) {
		if info, statErr := u.root.Lstat(name); statErr == nil && info.IsDir() {
			return nil
		}
	}
	return err
}

// makeFile makes a file, in the place of one that is there.
func (u *unpacker) makeFile(header *tar.Header, content io.Reader) error {
	if err := u.clear(header.Name); err != nil {
		return err
	}
	file, err := u.root.OpenFile(header.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	return u.finish(header)
}

// clear removes a file or link that is in the way.
func (u *unpacker) clear(name string) error {
	info, err := u.root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.IsDir():
		return fmt.Errorf("%s is a directory, and to be replaced by something else: remove it first", name)
	}
	return u.root.Remove(name)
}

// finish sets what the archive says of a file or directory that was made.
func (u *unpacker) finish(header *tar.Header) error {
	if info, err := u.root.Lstat(header.Name); err != nil || info.Mode()&fs.ModeSymlink != 0 {
		return err // another entry has taken the place of the directory
	}
	if err := u.root.Chmod(header.Name, fs.FileMode(header.Mode)&fs.ModePerm); err != nil {
		return err
	}
	return u.root.Chtimes(header.Name, time.Time{}, header.ModTime)
}
