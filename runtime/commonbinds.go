package runtime

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/runtime/oci"
)

// commonDir is the name in the share of what containers of a pod have in common. No container has one that begins with a dot.
const commonDir = ".common"

// bindKey tells directories apart that containers of a pod have in common. What is mounted once is one file system to the guest: what its
// kernel knows of a file, such as who listens on a socket or has locked it, it knows for all containers then. What is taken in different
// ways is mounted in different ways: it is the host that keeps a container from writing.
type bindKey struct {
	mount, inode uint64
	major, minor uint32

	recursive, readOnly, readOnlyBelow, slave bool
}

// commonKey is the key of a bind, if it is one that containers can have in common: a directory. One with other mounts below it is not: a
// container made later is to see those that there are then.
func commonKey(bind oci.Bind) (key bindKey, common bool, err error) {
	if !bind.Common {
		return key, false, nil
	}
	var status unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, bind.Source, 0, unix.STATX_TYPE|unix.STATX_INO|unix.STATX_MNT_ID, &status); err != nil {
		return key, false, fmt.Errorf("%s: %w: %w", bind.Source, err, errdefs.ErrInvalidArgument)
	}
	if status.Mode&unix.S_IFMT != unix.S_IFDIR || status.Mask&unix.STATX_MNT_ID == 0 {
		return key, false, nil
	}
	below, err := hasMountsBelow(bind.Source)
	if err != nil || below {
		return key, false, err
	}
	return bindKey{
		mount: status.Mnt_id, inode: status.Ino, major: status.Dev_major, minor: status.Dev_minor,
		recursive: bind.Recursive, readOnly: bind.ReadOnly, readOnlyBelow: bind.ReadOnlyBelow, slave: bind.Slave,
	}, true, nil
}

// shareBind shows the guest what a container has of the host, in the container's part of the share. What it has in common with others is a
// link there.
func (c *Container) shareBind(ctx context.Context, bind oci.Bind) error {
	name := filepath.Join(protocol.MountsDir, bind.Name)
	options := bindOptions{
		recursive: bind.Recursive, readOnly: bind.ReadOnly, readOnlyBelow: bind.ReadOnlyBelow, slave: bind.Slave, idMap: bind.IDMap,
	}
	key, common, err := commonKey(bind)
	if err != nil {
		return err
	}
	if !common {
		return c.share(bind.Source, name, options)
	}
	s := c.sandbox
	path, err := s.binds.acquire(ctx, key, func(context.Context) (string, error) { return s.attachCommon(bind.Source, options) })
	if err != nil {
		return err
	}
	if err := os.Symlink(filepath.Join("..", "..", path), filepath.Join(s.dir.share(), c.id, name)); err != nil {
		return s.dir.failed("make the container's share in", err)
	}
	return nil
}

// attachCommon shows the guest a directory for all containers that have it, until the sandbox ends, and returns its path in the share.
func (s *Sandbox) attachCommon(source string, options bindOptions) (string, error) {
	if err := os.MkdirAll(filepath.Join(s.dir.share(), commonDir), 0o711); err != nil {
		return "", s.dir.failed("make the share in", err)
	}
	path := filepath.Join(commonDir, strconv.FormatUint(s.lastBind.Add(1), 10))
	return path, s.attach(source, path, options)
}
