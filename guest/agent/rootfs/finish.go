package rootfs

import (
	"fmt"
	"maps"
	"path"
	"slices"

	"golang.org/x/sys/unix"
)

// makeDevices makes the device nodes and the links in /dev.
func (r *Root) makeDevices() error {
	for _, d := range r.plan.devices {
		if err := r.makeDevice(d); err != nil {
			return describe(d.path, err)
		}
	}
	dev, err := r.lookup("dev", unix.O_DIRECTORY, 0)
	if err != nil {
		return describe("dev", err)
	}
	defer unix.Close(dev)
	for _, name := range slices.Sorted(maps.Keys(r.plan.links)) {
		err := unix.Symlinkat(r.plan.links[name], dev, name)
		if err == unix.EEXIST && name == ptmx {
			if err = unix.Unlinkat(dev, name, 0); err == nil {
				err = unix.Symlinkat(r.plan.links[name], dev, name)
			}
		}
		if err != nil && err != unix.EEXIST {
			return describe("dev/"+name, err)
		}
	}
	return nil
}

// makeDevice makes a device node; one that is there is left as it is.
func (r *Root) makeDevice(d device) error {
	dir, _, err := r.place(relative(path.Dir(d.path)), true)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	name := path.Base(d.path)
	if err := unix.Mknodat(dir, name, d.mode, int(d.number)); err == unix.EEXIST {
		return nil
	} else if err != nil {
		return err
	}
	return unix.Fchownat(dir, name, int(d.uid), int(d.gid), unix.AT_SYMLINK_NOFOLLOW)
}

// Finish hides and locks what the specification says, and makes the working directory if it is not there.
func (r *Root) Finish() error {
	if fd, _, err := r.place(r.plan.cwd, true); err == nil { // else the process says what is wrong with it
		unix.Close(fd)
	}
	for _, name := range r.plan.masked {
		if err := r.mask(relative(name)); err != nil {
			return fmt.Errorf("hide %s: %w", name, err)
		}
	}
	for _, name := range r.plan.readOnly {
		if err := r.lock(relative(name)); err != nil {
			return fmt.Errorf("make %s read-only: %w", name, err)
		}
	}
	if r.plan.rootOnly {
		r.readOnly = append(r.readOnly, r.fd)
	}
	for _, fd := range r.readOnly {
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
			return fmt.Errorf("make a mount read-only: %w", err)
		}
	}
	return nil
}

// existing opens a path in the root; -1 if it is not there.
func (r *Root) existing(name string) (int, error) {
	fd, err := r.lookup(name, 0, 0)
	if err == unix.ENOENT || err == unix.ENOTDIR || err == unix.EACCES {
		return -1, nil
	}
	return fd, err
}

// mask mounts an empty directory or /dev/null on a path, if it is there.
func (r *Root) mask(name string) error {
	place, err := r.existing(name)
	if place < 0 || err != nil {
		return err
	}
	defer unix.Close(place)
	var stat unix.Stat_t
	if err := unix.Fstat(place, &stat); err != nil {
		return err
	}
	var fd int
	if stat.Mode&unix.S_IFMT == unix.S_IFDIR {
		fd, err = r.fileSystem(&mount{fsType: "tmpfs", source: "tmpfs", options: options{data: []string{"size=0k"}}}, nil)
	} else {
		fd, err = r.clone(unix.AT_FDCWD, "/dev/null", 0)
	}
	if err != nil {
		return err
	}
	r.readOnly = append(r.readOnly, fd)
	return moveTo(fd, place)
}

// lock mounts a path on itself to be read-only, if it is there.
func (r *Root) lock(name string) error {
	place, err := r.existing(name)
	if place < 0 || err != nil {
		return err
	}
	defer unix.Close(place)
	fd, err := r.clone(place, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	if err != nil {
		return err
	}
	r.readOnly = append(r.readOnly, fd)
	return moveTo(fd, place)
}

// Pivot makes the root the calling thread's, and of all processes that had the thread's, and leaves nothing else there.
func (r *Root) Pivot() error {
	old, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("the old root: %w", err)
	}
	defer unix.Close(old)
	if err := unix.Fchdir(r.fd); err != nil {
		return fmt.Errorf("change to the root: %w", err)
	}
	// With one directory for both, the old root is put over the new one, and taken away from there. See pivot_root(2).
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot to the root: %w", err)
	}
	if err := unix.Fchdir(old); err != nil {
		return fmt.Errorf("leave the old root: %w", err)
	}
	// What is unmounted here stays where it is for everybody else.
	if err := unix.Mount("", ".", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("leave the old root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the old root: %w", err)
	}
	if err := unix.Mount("", "/", "", r.plan.propagation, ""); err != nil {
		return fmt.Errorf("propagation of the root: %w", err)
	}
	return unix.Chdir("/")
}
