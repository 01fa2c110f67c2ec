package rootfs

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Root is a root directory on its way to become a container's. It is of the thread that has entered it.
type Root struct {
	plan *Plan
	fd   int // the mount
	// pts is the devpts that was made before its turn: -1 if none was.
	pts      int
	readOnly []int // mounts that are to be read-only at the end
	open     []int // descriptors of mounts
}

// Sources are what mounts are made of that are no paths of the specification.
type Sources struct {
	Proc  string // where a process of the container has mounted its proc
	Group string // the directory of the container's control group
}

// Enter binds a directory to be the root. The calling thread has to have a mount namespace, directories and a umask of its own (unshare(2)
// with CLONE_NEWNS). Close the root in any case.
func (p *Plan) Enter(dir string) (_ *Root, err error) {
	r := &Root{plan: p, fd: -1, pts: -1}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	unix.Umask(0) // what is made has the modes that are given
	propagation := p.propagation
	if propagation&unix.MS_SHARED != 0 { // at first; a root that is shared cannot be pivoted to
		propagation = unix.MS_REC | unix.MS_PRIVATE
	}
	if err := unix.Mount("", "/", "", propagation, ""); err != nil {
		return nil, fmt.Errorf("separate the container's mounts: %w", err)
	}
	if r.fd, err = r.clone(unix.AT_FDCWD, dir, unix.AT_RECURSIVE); err != nil {
		return nil, fmt.Errorf("root directory %s: %w", dir, err)
	}
	attr := &unix.MountAttr{Attr_clr: settable}
	if err := unix.MountSetattr(r.fd, "", unix.AT_EMPTY_PATH, attr); err != nil {
		return nil, fmt.Errorf("root directory %s: attributes: %w", dir, err)
	}
	private := &unix.MountAttr{Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(r.fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, private); err != nil {
		return nil, fmt.Errorf("root directory %s: propagation: %w", dir, err)
	}
	if err := unix.MoveMount(r.fd, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return nil, fmt.Errorf("root directory %s: bind: %w", dir, err)
	}
	return r, nil
}

// Close closes the root's descriptors. Its mounts stay.
func (r *Root) Close() {
	for _, fd := range r.open {
		unix.Close(fd)
	}
	r.open = nil
}

// own notes a descriptor to be closed.
func (r *Root) own(fd int, err error) (int, error) {
	if err == nil {
		r.open = append(r.open, fd)
	}
	return fd, err
}

// clone makes a mount of what is at a path, which is attached nowhere yet.
func (r *Root) clone(dir int, name string, flags uint) (int, error) {
	return r.own(unix.OpenTree(dir, name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|flags))
}

// Terminals makes the container's devpts before its turn, and returns its directory's descriptor, which is the root's.
func (r *Root) Terminals() (int, error) {
	at := slices.IndexFunc(r.plan.mounts, func(m mount) bool { return m.kind == fileSystem && m.fsType == "devpts" && m.target == pts })
	if at < 0 {
		return -1, errors.New("the container has no terminals: it mounts no devpts on /dev/pts")
	}
	var err error
	r.pts, err = r.fileSystem(&r.plan.mounts[at], nil)
	return r.pts, err
}

// Mount mounts all that the specification says, in its order, and makes devices. console is the descriptor of the terminal that becomes
// /dev/console; negative without one.
func (r *Root) Mount(sources Sources, console int) error {
	for i := range r.plan.mounts {
		m := &r.plan.mounts[i]
		if err := r.mount(m, sources); err != nil {
			return fmt.Errorf("mount %s on /%s: %w", m.fsType, m.target, err)
		}
	}
	if r.plan.links == nil {
		return nil
	}
	if err := r.makeDevices(); err != nil {
		return fmt.Errorf("devices: %w", err)
	}
	if console >= 0 {
		if err := r.bindFile(console, "dev/console"); err != nil {
			return fmt.Errorf("the console: %w", err)
		}
	}
	return nil
}

// mount makes a mount and attaches it.
func (r *Root) mount(m *mount, sources Sources) error {
	var fd, place int
	var err error
	switch {
	case m.kind == proc || m.fsType == "sysfs":
		place, err = r.kernelPlace(m.target)
	case m.kind == bind:
		flags := uint(0)
		if m.recursive {
			flags = unix.AT_RECURSIVE
		}
		if fd, err = r.clone(unix.AT_FDCWD, m.source, flags); err != nil {
			return fmt.Errorf("source %s: %w", m.source, err)
		}
		var stat unix.Stat_t
		if err := unix.Fstat(fd, &stat); err != nil {
			return fmt.Errorf("source %s: %w", m.source, err)
		}
		place, _, err = r.place(m.target, stat.Mode&unix.S_IFMT == unix.S_IFDIR)
	default:
		var made bool
		if place, made, err = r.place(m.target, true); err == nil && m.fsType == "tmpfs" && !made {
			defer unix.Close(place)
			return r.tmpfs(m, place)
		}
	}
	if err != nil {
		return err
	}
	defer unix.Close(place)
	switch m.kind {
	case bind:
	case proc:
		fd, err = r.own(unix.OpenTree(unix.AT_FDCWD, sources.Proc, unix.OPEN_TREE_CLOEXEC))
	case group:
		fd, err = r.clone(unix.AT_FDCWD, sources.Group, 0)
	case fileSystem:
		if fd = r.pts; fd >= 0 && m.fsType == "devpts" && m.target == pts {
			r.pts = -1
			break
		}
		fd, err = r.fileSystem(m, nil)
	}
	if err != nil {
		return err
	}
	return r.attach(m, fd, place)
}

// tmpfs mounts a tmpfs on a directory that was there, whose mode it has if none is given.
func (r *Root) tmpfs(m *mount, place int) error {
	var more []string
	if !slices.ContainsFunc(m.data, func(option string) bool { return strings.HasPrefix(option, "mode=") }) {
		var stat unix.Stat_t
		if err := unix.Fstat(place, &stat); err != nil {
			return err
		}
		more = []string{fmt.Sprintf("mode=%o", stat.Mode&0o7777)}
	}
	fd, err := r.fileSystem(m, more)
	if err != nil {
		return err
	}
	return r.attach(m, fd, place)
}

// fileSystem makes a file system and a mount of it, which is attached nowhere yet.
func (r *Root) fileSystem(m *mount, more []string) (int, error) {
	fs, err := unix.Fsopen(m.fsType, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "source", m.source); err != nil {
		return -1, fmt.Errorf("source %s: %w", m.source, err)
	}
	for _, flag := range m.flags {
		if err := unix.FsconfigSetFlag(fs, flag); err != nil {
			return -1, fmt.Errorf("option %s: %w", flag, err)
		}
	}
	for _, option := range slices.Concat(m.data, more) {
		key, value, valued := strings.Cut(option, "=")
		if valued {
			err = unix.FsconfigSetString(fs, key, value)
		} else {
			err = unix.FsconfigSetFlag(fs, key)
		}
		if err != nil {
			return -1, fmt.Errorf("option %s: %w", option, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return r.own(unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0))
}

// kernelPlace opens the directory for a proc or sysfs. No link may lead to it: what is in them is trusted by its path.
func (r *Root) kernelPlace(name string) (int, error) {
	const flags = unix.O_DIRECTORY | unix.O_NOFOLLOW
	fd, err := r.lookup(name, flags, unix.RESOLVE_NO_SYMLINKS)
	if err == unix.ENOENT {
		if err := r.makeOne(relative(path.Dir(name)), path.Base(name), true); err != nil {
			return -1, describe(name, err)
		}
		fd, err = r.lookup(name, flags, unix.RESOLVE_NO_SYMLINKS)
	}
	return fd, describe(name, err)
}

// attach gives a mount its attributes and attaches it to a place.
func (r *Root) attach(m *mount, fd, place int) error {
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, m.attr()); err != nil {
		return fmt.Errorf("attributes: %w", err)
	}
	if m.sets|m.clears != 0 {
		attr := &unix.MountAttr{Attr_set: m.sets, Attr_clr: m.clears}
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, attr); err != nil {
			return fmt.Errorf("attributes of all: %w", err)
		}
	}
	if err := moveTo(fd, place); err != nil {
		return err
	}
	for _, c := range m.propagation {
		flags := uint(unix.AT_EMPTY_PATH)
		if c.recursive {
			flags |= unix.AT_RECURSIVE
		}
		if err := unix.MountSetattr(fd, "", flags, &unix.MountAttr{Propagation: c.propagation}); err != nil {
			return fmt.Errorf("propagation: %w", err)
		}
	}
	if m.readOnly() {
		r.readOnly = append(r.readOnly, fd)
	}
	return nil
}

// moveTo attaches a mount.
func moveTo(fd, place int) error {
	return unix.MoveMount(fd, "", place, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// bindFile mounts an open file on a path.
func (r *Root) bindFile(file int, name string) error {
	place, _, err := r.place(name, false)
	if err != nil {
		return err
	}
	defer unix.Close(place)
	fd, err := r.clone(file, "", unix.AT_EMPTY_PATH)
	if err != nil {
		return err
	}
	return moveTo(fd, place)
}
