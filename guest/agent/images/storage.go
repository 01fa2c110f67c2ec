package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

// diskType is the file system of the storage disk, diskLabel its label.
const (
	diskType  = "ext4"
	diskLabel = "limpet"
)

// mountStorage mounts the storage disk on the store if there is one that has a file system, and it is not mounted.
func (s *Store) mountStorage() error {
	disk, err := s.FindDisk(protocol.StorageSerial)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for the storage disk: %w", err)
	}
	if err := os.MkdirAll(s.Root, 0o711); err != nil {
		return fmt.Errorf("make the image store: %w", err)
	}
	lock, err := s.lockMount()
	if err != nil {
		return err
	}
	defer lock.Close()
	mounted, err := mountinfo.Mounted(s.Root)
	if mounted || err != nil {
		return err
	}
	err = s.mountDisk(disk)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EUCLEAN) { // not formatted
		return nil
	}
	return err
}

// lockMount takes the lock under which the storage disk is mounted. It is beside the store, not in it.
func (s *Store) lockMount() (*os.File, error) {
	file, err := os.OpenFile(s.Root+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the image store: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock the image store: %w", err), file.Close())
	}
	return file, nil
}

// mountDisk mounts the disk such that what is removed there takes no room on the host any more.
func (s *Store) mountDisk(disk string) error {
	if err := unix.Mount(disk, s.Root, diskType, unix.MS_NOATIME, "discard"); err != nil {
		return fmt.Errorf("mount the storage disk %s: %w", disk, err)
	}
	return nil
}

// Format makes a new, empty file system on the storage disk and puts the store there. All images and overlays that there were are gone;
// it refuses while an overlay is mounted (errdefs.ErrFailedPrecondition), and if the machine has no storage disk.
func (s *Store) Format(ctx context.Context) error {
	disk, err := s.FindDisk(protocol.StorageSerial)
	if err != nil {
		return fmt.Errorf("%w: the machine has no storage disk, start its sandbox with one: %s", errdefs.ErrFailedPrecondition, err)
	}
	lock, err := s.lockMount()
	if err != nil {
		return err
	}
	defer lock.Close()
	overlays, err := mountinfo.GetMounts(mountinfo.PrefixFilter(filepath.Join(s.Root, overlaysDir)))
	if err != nil {
		return err
	}
	if len(overlays) > 0 {
		return fmt.Errorf("%d overlays are mounted: clean them up first: %w", len(overlays), errdefs.ErrFailedPrecondition)
	}
	mounted, err := mountinfo.Mounted(s.Root)
	if err != nil {
		return err
	}
	if mounted {
		if err := unix.Unmount(s.Root, unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount the storage disk, which is in use: %w: %w", err, errdefs.ErrFailedPrecondition)
		}
	} else if err := s.empty(); err != nil { // it would take memory, and nobody could see it
		return err
	}
	if err := s.makeFileSystem(ctx, disk); err != nil {
		return errors.Join(err, s.makeDirectories())
	}
	if err := s.mountDisk(disk); err != nil {
		return errors.Join(err, s.makeDirectories())
	}
	return s.makeDirectories()
}

// empty removes all that is in the store.
func (s *Store) empty() error {
	entries, err := os.ReadDir(s.Root)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := os.RemoveAll(filepath.Join(s.Root, entry.Name())); err != nil {
			return fmt.Errorf("empty the image store: %w", err)
		}
	}
	return nil
}

func (s *Store) makeFileSystem(ctx context.Context, disk string) error {
	// Not more room than needed for what grows with the disk and is seldom used; nothing kept for root, as nobody else writes there.
	command := exec.CommandContext(ctx, s.Mkfs, "-q", "-F", "-t", diskType, "-L", diskLabel, "-m", "0",
		"-E", "lazy_itable_init=1,nodiscard", disk)
	var said bytes.Buffer
	command.Stdout, command.Stderr = &said, &said
	if err := command.Run(); err != nil {
		return fmt.Errorf("make a file system on %s: %w: %.512q", disk, errors.Join(ctx.Err(), err), said.String())
	}
	return nil
}

// Status tells how much room the store has and what is in it. It is ready when the storage disk is mounted; without one images are
// kept in memory.
func (s *Store) Status() (status protocol.StorageStatus, err error) {
	var room unix.Statfs_t
	if err := unix.Statfs(s.Root, &room); err != nil {
		return status, fmt.Errorf("look at the image store: %w", err)
	}
	status.TotalBytes = room.Blocks * uint64(room.Bsize)
	status.UsedBytes = (room.Blocks - room.Bfree) * uint64(room.Bsize)
	if status.Ready, err = mountinfo.Mounted(s.Root); err != nil {
		return status, err
	}
	layers, err := os.ReadDir(filepath.Join(s.Root, layersDir))
	if err != nil {
		return status, err
	}
	images, err := os.ReadDir(filepath.Join(s.Root, imagesDir))
	status.LayerCount, status.ImageCount = uint64(len(layers)), uint64(len(images))
	return status, err
}
