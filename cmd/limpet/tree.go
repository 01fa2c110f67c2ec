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

// unpacker makes files of an archive that nobody has looked at: nothing but the tree that was asked for, whatever names and links say, no
// devices, and no files with the rights of others (set-user-id). The files are this process's user's.
type unpacker struct {
	parent *os.Root      // the directory that the tree is to be in
	to     string        // its name there
	tree   *os.Root      // it itself, once it is there and a directory
	dirs   []*tar.Header // the directories that the last entry is in: their modes and times are set when they are left
	left   []string      // what was left out
}

const (
	// maxLeft is how many names are remembered of what is left out.
	maxLeft = 1000
	// maxTreeName is the most bytes of a name in an archive: those of a path (PATH_MAX).
	maxTreeName = 4096
	// sparseRecord begins the records of a file of which the archive has only the parts that are not zero: a few bytes could fill a disk.
	sparseRecord = "GNU.sparse."
)

var errNothingSent = errors.New("nothing was sent")

// unpackTree makes the tree that an archive has under the name from, under the name to in a directory. It returns what was left out: what
// is neither file, directory nor link, up to maxLeft of it.
func unpackTree(archive io.Reader, from, directory, to string) (left []string, err error) {
	parent, err := os.OpenRoot(directory)
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	u := &unpacker{parent: parent, to: to}
	defer func() {
		if u.tree != nil {
			u.tree.Close()
		}
	}()
	found := false
	for reader := tar.NewReader(archive); ; {
		header, err := reader.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return u.left, fmt.Errorf("read what was sent: %w", err)
		}
		if err := rename(header, from); err != nil {
			return u.left, err
		}
		found = true
		if err := u.add(header, reader); err != nil {
			return u.left, err
		}
	}
	if !found {
		return nil, errNothingSent
	}
	return u.left, u.leave("")
}

// rename gives an entry of an archive, from or below it, and what it is a hard link to, names in the tree: that of its top is ".".
func rename(header *tar.Header, from string) error {
	name := header.Name
	if len(name) > maxTreeName {
		return fmt.Errorf("the archive has a name of %d bytes, more than a path can have", len(name))
	}
	for record := range header.PAXRecords {
		if strings.HasPrefix(record, sparseRecord) {
			return fmt.Errorf("the archive has not all of %q, which was not asked for", name)
		}
	}
	var ok bool
	if header.Name, ok = below(name, from); !ok {
		return fmt.Errorf("the archive has %q, which was not asked for", name)
	}
	if header.Typeflag != tar.TypeLink {
		return nil
	}
	target := header.Linkname
	if header.Linkname, ok = below(target, from); !ok {
		return fmt.Errorf("the archive has a link to %q, which was not asked for", target)
	}
	return nil
}

// below is a name relative to another one, if it is that or below it.
func below(name, from string) (string, bool) {
	rest, ok := strings.CutPrefix(path.Clean(name)+"/", from+"/")
	return path.Clean(rest), ok
}

func (u *unpacker) add(header *tar.Header, content io.Reader) error {
	if err := u.leave(header.Name); err != nil {
		return err
	}
	root, name := u.tree, header.Name
	switch {
	case root != nil:
	case name != ".":
		return fmt.Errorf("the archive has %q below what is no directory", path.Join(u.to, name))
	default:
		root, name = u.parent, u.to
	}
	switch header.Typeflag {
	case tar.TypeDir:
		return u.addDir(root, name, header)
	case tar.TypeReg:
		return u.makeFile(root, name, header, content)
	case tar.TypeSymlink:
		if err := u.clear(root, name); err != nil {
			return err
		}
		return root.Symlink(header.Linkname, name)
	case tar.TypeLink:
		if err := u.clear(root, name); err != nil {
			return err
		}
		return root.Link(header.Linkname, name)
	}
	if len(u.left) < maxLeft {
		u.left = append(u.left, path.Join(u.to, header.Name))
	}
	return nil
}

// addDir makes a directory, open to its maker, unless there is one. That of the tree's top becomes the root of all that follows: the links
// in it lead no further.
func (u *unpacker) addDir(root *os.Root, name string, header *tar.Header) error {
	err := root.Mkdir(name, 0o700)
	if errors.Is(err, fs.ErrExist) {
		if info, statErr := root.Lstat(name); statErr == nil && info.IsDir() {
			err = nil
		}
	}
	if err == nil && u.tree == nil {
		u.tree, err = root.OpenRoot(name)
	}
	if err != nil {
		return err
	}
	u.dirs = append(u.dirs, header)
	return nil
}

// leave finishes the directories that a name is not below; "" is below none.
func (u *unpacker) leave(name string) error {
	for len(u.dirs) > 0 {
		last := u.dirs[len(u.dirs)-1]
		if rest, ok := below(name, last.Name); name != "" && (last.Name == "." && name != "." || ok && rest != ".") {
			return nil
		}
		if err := finish(u.tree, last.Name, last); err != nil {
			return err
		}
		u.dirs = u.dirs[:len(u.dirs)-1]
	}
	return nil
}

// makeFile makes a file, in the place of one that is there.
func (u *unpacker) makeFile(root *os.Root, name string, header *tar.Header, content io.Reader) error {
	if err := u.clear(root, name); err != nil {
		return err
	}
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	return finish(root, name, header)
}

// clear removes a file or link that is in the way.
func (u *unpacker) clear(root *os.Root, name string) error {
	info, err := root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.IsDir():
		return fmt.Errorf("%s is a directory, and to be replaced by something else: remove it first", name)
	}
	return root.Remove(name)
}

// finish sets what the archive says of a file or directory that was made.
func finish(root *os.Root, name string, header *tar.Header) error {
	if info, err := root.Lstat(name); err != nil || info.Mode()&fs.ModeSymlink != 0 {
		return err // another entry has taken the place of the directory
	}
	if err := root.Chmod(name, fs.FileMode(header.Mode)&fs.ModePerm); err != nil {
		return err
	}
	return root.Chtimes(name, time.Time{}, header.ModTime)
}
