package rootfs

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// maxLinks is how many symbolic links a path may lead through, as for the kernel.
	maxLinks = 40
	// maxTries is how often a path is looked up while something on it is being renamed.
	maxTries = 100
	// newDir and newFile are the modes of what is made to be mounted on.
	newDir  = 0o755
	newFile = 0o644
)

// lookup opens a path in the root, as a path (O_PATH). It never leads out of the root; links are followed as in the container.
func (r *Root) lookup(name string, flags uint64, resolve uint64) (int, error) {
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC | flags, Resolve: unix.RESOLVE_IN_ROOT | resolve}
	if name == "" {
		name = "."
	}
	for try := 0; ; try++ {
		fd, err := unix.Openat2(r.fd, name, how)
		if (err != unix.EAGAIN && err != unix.EINTR) || try == maxTries {
			return fd, err
		}
	}
}

// place opens what is to be mounted on, and makes it if it is not there: a directory, or an empty file.
func (r *Root) place(name string, dir bool) (fd int, made bool, err error) {
	fd, err = r.lookup(name, 0, 0)
	if err != unix.ENOENT {
		return fd, false, describe(name, err)
	}
	real, err := r.make(name, dir)
	if err != nil {
		return -1, false, describe(name, err)
	}
	fd, err = r.lookup(real, unix.O_NOFOLLOW, 0)
	return fd, true, describe(name, err)
}

// make makes what is missing of a path, and returns the path without links.
func (r *Root) make(name string, dir bool) (string, error) {
	done, rest := "", strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			done = relative(path.Dir(done))
			continue
		}
		next := path.Join(done, part)
		link, err := r.link(next)
		switch {
		case err == nil && link != "":
			if links++; links > maxLinks {
				return "", unix.ELOOP
			}
			if path.IsAbs(link) {
				done = ""
			}
			rest = append(strings.Split(link, "/"), rest...)
			continue
		case errors.Is(err, unix.ENOENT):
			err = r.makeOne(done, part, dir || len(rest) > 0)
		}
		if err != nil {
			return "", err
		}
		done = next
	}
	return done, nil
}

// link reads a symbolic link; what is none is "".
func (r *Root) link(name string) (string, error) {
	fd, err := r.lookup(name, unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil || stat.Mode&unix.S_IFMT != unix.S_IFLNK {
		return "", err
	}
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", target)
	return string(target[:max(n, 0)]), err
}

// makeOne makes a directory or a file in a directory, whose path has no links.
func (r *Root) makeOne(parent, name string, dir bool) error {
	fd, err := r.lookup(parent, unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if dir {
		err = unix.Mkdirat(fd, name, newDir)
	} else {
		err = unix.Mknodat(fd, name, unix.S_IFREG|newFile, 0)
	}
	if err == unix.EEXIST { // somebody else has made it
		return nil
	}
	return err
}

func describe(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("/%s of the container: %w", name, err)
}
