package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/runtime/oci"
)

// tmpfsAt tells what file system in memory is mounted on a path; nil if it is not there, or no mount point of one.
func tmpfsAt(path string) (*oci.Tmpfs, error) {
	found, err := lookForTmpfs(path)
	if err != nil {
		return nil, fmt.Errorf("look what is mounted on %s: %w", path, err)
	}
	return found, nil
}

func lookForTmpfs(path string) (*oci.Tmpfs, error) {
	resolved, err := filepath.EvalSymlinks(path) // as the mount table names it
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	mounts, err := mountinfo.GetMounts(func(info *mountinfo.Info) (skip, stop bool) { return info.FSType != "tmpfs", false })
	if err != nil {
		return nil, err
	}
	here := on(mounts, resolved)
	if here == nil {
		return nil, nil
	}
	var fileSystem unix.Statfs_t
	var dir unix.Stat_t
	if err := errors.Join(unix.Statfs(resolved, &fileSystem), unix.Stat(resolved, &dir)); err != nil {
		return nil, err
	}
	if dir.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil, nil
	}
	found := &oci.Tmpfs{
		Size: fileSystem.Blocks * uint64(fileSystem.Bsize), Mode: dir.Mode & 0o7777, UID: dir.Uid, GID: dir.Gid,
	}
	for _, whole := range mounts {
		if whole.Major == here.Major && whole.Minor == here.Minor && whole.Root == "/" && strings.Contains(whole.Mountpoint, oci.EmptyDir) {
			found.Whole = whole.Mountpoint
			found.Path, err = filepath.Rel("/", here.Root)
			break
		}
	}
	return found, err
}

// on returns the mount that is on a path, the last one if there are several; nil if there is none.
func on(mounts []*mountinfo.Info, path string) (found *mountinfo.Info) {
	for _, info := range mounts {
		if info.Mountpoint == path {
			found = info
		}
	}
	return found
}
