package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/runtime/oci"
)

// bindOptions say how a bind mount differs from its source.
type bindOptions struct {
	recursive bool
	readOnly  bool // the source, and what is mounted below it only if readOnlyBelow

	readOnlyBelow bool
	slave         bool // what is mounted below the source later appears in it too; otherwise it does not
	idMap         *oci.IDMap
}

// openBind makes a bind mount of source that is attached nowhere yet, complete with its flags. The caller closes it.
func openBind(source string, options bindOptions) (_ *os.File, err error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	const top, all = unix.AT_EMPTY_PATH, unix.AT_EMPTY_PATH | unix.AT_RECURSIVE
	if options.recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, source, flags)
	if err != nil {
		return nil, fmt.Errorf("bind %s: %w", source, err)
	}
	tree := os.NewFile(uintptr(fd), source)
	defer func() {
		if err != nil {
			tree.Close()
		}
	}()
	if err := mapIDs(tree, options.idMap); err != nil {
		return nil, err
	}
	propagation := unix.MountAttr{Propagation: unix.MS_PRIVATE}
	if options.slave {
		propagation.Propagation = unix.MS_SLAVE
	}
	if err := unix.MountSetattr(fd, "", all, &propagation); err != nil {
		return nil, fmt.Errorf("bind %s: set its propagation: %w", source, err)
	}
	if options.readOnly {
		which := uint(top)
		if options.readOnlyBelow {
			which = all
		}
		if err := unix.MountSetattr(fd, "", which, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
			return nil, fmt.Errorf("bind %s: make it read-only: %w", source, err)
		}
	}
	return tree, nil
}

// mapIDs gives the files of a mount other owners.
func mapIDs(tree *os.File, idMap *oci.IDMap) error {
	if idMap == nil {
		return nil
	}
	namespace, err := mount.GetUsernsFD(mappings(idMap.UIDs), mappings(idMap.GIDs))
	if err != nil {
		return fmt.Errorf("bind %s: map its ids: %w", tree.Name(), err)
	}
	defer namespace.Close()
	which := uint(unix.AT_EMPTY_PATH)
	if idMap.Recursive {
		which |= unix.AT_RECURSIVE
	}
	err = unix.MountSetattr(int(tree.Fd()), "", which, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(namespace.Fd())})
	if errors.Is(err, unix.EINVAL) {
		err = fmt.Errorf("%w: its file system, or this kernel for it, cannot", err)
	}
	if err != nil {
		return fmt.Errorf("bind %s: map its ids: %w", tree.Name(), err)
	}
	return nil
}

// mappings writes mappings of ids as containerd's functions read them.
func mappings(list []specs.LinuxIDMapping) string {
	var texts []string
	for _, mapping := range list {
		texts = append(texts, fmt.Sprintf("%d:%d:%d", mapping.ContainerID, mapping.HostID, mapping.Size))
	}
	return strings.Join(texts, ",")
}

// detach takes a mount away, at once even if it is in use. That nothing is mounted there is no error.
func detach(target string) error {
	err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return fmt.Errorf("unmount %s: %w", target, err)
}

// removeTree removes a directory, after every mount on and below it. It removes nothing while something is still mounted: what
// is below a mount belongs to others.
func removeTree(dir string) error {
	if err := detachBelow(dir); err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	left, err := mountsBelow(dir)
	if err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	if len(left) > 0 {
		return fmt.Errorf("remove %s: still mounted there: %s", dir, strings.Join(left, ", "))
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return nil
}

// detachBelow takes away every mount on and below dir, the last one first. That dir is not there is no error.
func detachBelow(dir string) error {
	targets, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, target := range slices.Backward(targets) {
		errs = append(errs, detach(target))
	}
	return errors.Join(errs...)
}

// hasMountsBelow tells whether anything is mounted below dir, not on it.
func hasMountsBelow(dir string) (bool, error) {
	targets, err := mountsBelow(dir)
	if err != nil || len(targets) == 0 {
		return false, err
	}
	resolved, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return false, fmt.Errorf("look for mounts below %s: %w", dir, err)
	}
	return slices.ContainsFunc(targets, func(target string) bool { return target != resolved }), nil
}

// mountsBelow lists the mounts on and below dir in the order in which they were made.
func mountsBelow(dir string) ([]string, error) {
	resolved, err := filepath.EvalSymlinks(dir) // as the mount table names it
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for mounts below %s: %w", dir, err)
	}
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(resolved))
	if err != nil {
		return nil, fmt.Errorf("look for mounts below %s: %w", dir, err)
	}
	var targets []string
	for _, info := range infos {
		targets = append(targets, info.Mountpoint)
	}
	return targets, nil
}
