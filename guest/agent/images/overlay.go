package images

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

// maxWorkload is how many bytes a workload's name may have: it is that of a directory, too.
const maxWorkload = 128

// The names in an overlay's directory.
const (
	rootfsName  = "rootfs"
	upperName   = "upper"
	workName    = "work"
	overlayFile = "overlay.json"
)

// overlayRecord is what is remembered of an overlay.
type overlayRecord struct {
	Image string   `json:"image"` // digest
	Chain []string `json:"chain"`
}

func checkWorkload(id string) error {
	valid := id != "" && len(id) <= maxWorkload
	for i := 0; valid && i < len(id); i++ {
		c := id[i]
		valid = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || i > 0 && (c == '_' || c == '.' || c == '-')
	}
	if !valid {
		return fmt.Errorf("name of a workload: want a letter or digit, then up to %d letters, digits, '_', '.' or '-': %w", maxWorkload-1,
			errdefs.ErrInvalidArgument)
	}
	return nil
}

func (s *Store) overlayPath(workload string) string {
	return filepath.Join(s.Root, overlaysDir, workload)
}

// PrepareOverlay mounts a writable root file system of an image for a workload. What the workload has written before, and no
// CleanupOverlay removed, is there again. errdefs.ErrNotFound: the image has not been pulled; errdefs.ErrAlreadyExists: the workload's
// overlay is of another image.
func (s *Store) PrepareOverlay(image, workload string) (_ protocol.OverlayInfo, err error) {
	if err := checkWorkload(workload); err != nil {
		return protocol.OverlayInfo{}, err
	}
	found, err := s.find(image)
	if err != nil {
		return protocol.OverlayInfo{}, err
	}
	dir := s.overlayPath(workload)
	lock, err := lockPath(dir, unix.LOCK_EX)
	if errors.Is(err, fs.ErrNotExist) {
		if err := s.makeOverlay(dir, overlayRecord{Image: found.Info.Digest, Chain: found.Chain}); err != nil {
			return protocol.OverlayInfo{}, fmt.Errorf("make an overlay for %s: %w", workload, err)
		}
		lock, err = lockPath(dir, unix.LOCK_EX)
	}
	if err != nil {
		return protocol.OverlayInfo{}, fmt.Errorf("lock the overlay of %s: %w", workload, err)
	}
	defer lock.Close()
	is, err := readJSON[overlayRecord](filepath.Join(dir, overlayFile))
	if err != nil {
		return protocol.OverlayInfo{}, err
	}
	if is.Image != found.Info.Digest {
		return protocol.OverlayInfo{}, fmt.Errorf("the overlay of %s is of the image %s, not of %s: clean it up first: %w", workload, is.Image,
			found.Info.Digest, errdefs.ErrAlreadyExists)
	}
	info := protocol.OverlayInfo{
		RootfsPath: filepath.Join(dir, rootfsName), UpperPath: filepath.Join(dir, upperName), WorkPath: filepath.Join(dir, workName),
		Image: found.Info,
	}
	if err := s.mountOverlay(info, is.Chain); err != nil {
		return protocol.OverlayInfo{}, fmt.Errorf("mount the overlay of %s: %w", workload, err)
	}
	return info, nil
}

// makeOverlay makes an overlay's directory. If somebody else was first, his is as good.
func (s *Store) makeOverlay(dir string, is overlayRecord) (err error) {
	staged, lock, err := s.stage()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(staged), lock.Close()) }()
	if err := os.Chmod(staged, 0o711); err != nil {
		return err
	}
	for _, name := range []string{rootfsName, upperName, workName} {
		if err := os.Mkdir(filepath.Join(staged, name), 0o755); err != nil {
			return err
		}
	}
	if err := s.writeJSON(filepath.Join(staged, overlayFile), is); err != nil {
		return err
	}
	if err := os.Rename(staged, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// mountOverlay mounts an overlay unless it is mounted.
func (s *Store) mountOverlay(info protocol.OverlayInfo, chain []string) error {
	mounted, err := mountinfo.Mounted(info.RootfsPath)
	if mounted || err != nil {
		return err
	}
	lower, layers, err := s.openLayers(chain)
	defer func() {
		for _, layer := range layers {
			layer.Close()
		}
	}()
	if err != nil {
		return err
	}
	// The work directory may be marked by a mount that a crash ended; nothing of it is worth keeping.
	if err := errors.Join(os.RemoveAll(info.WorkPath), os.Mkdir(info.WorkPath, 0o755)); err != nil {
		return err
	}
	data := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, info.UpperPath, info.WorkPath)
	return unix.Mount("overlay", info.RootfsPath, "overlay", 0, data)
}

// openLayers opens and holds the layers of a chain, and names them for overlayfs, the uppermost first. The names are those of the open
// files: a mount's options have to fit into one page of memory, and the layers' own names would soon fill it.
func (s *Store) openLayers(chain []string) (lower string, open []io.Closer, err error) {
	var names []string
	for _, id := range slices.Backward(chain) {
		lock, err := s.holdLayer(id)
		if err != nil {
			return "", open, err
		}
		open = append(open, lock)
		files, err := os.Open(s.layerFiles(id))
		if err != nil {
			return "", open, err
		}
		open = append(open, files)
		names = append(names, fmt.Sprintf("/proc/self/fd/%d", files.Fd()))
	}
	if len(names) == 0 { // an image without files
		empty, lock, err := s.stage()
		if err != nil {
			return "", open, err
		}
		return empty, append(open, lock), nil
	}
	return strings.Join(names, ":"), open, nil
}

// CleanupOverlay unmounts and removes what PrepareOverlay made, with all that the workload wrote. errdefs.ErrNotFound: there is none.
func (s *Store) CleanupOverlay(workload string) (err error) {
	if err := checkWorkload(workload); err != nil {
		return err
	}
	dir := s.overlayPath(workload)
	lock, err := lockPath(dir, unix.LOCK_EX)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("workload %s has no overlay: %w", workload, errdefs.ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("lock the overlay of %s: %w", workload, err)
	}
	defer lock.Close()
	err = unix.Unmount(filepath.Join(dir, rootfsName), unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("the overlay of %s is in use: end what runs in it first: %w: %w", workload, err, errdefs.ErrFailedPrecondition)
	}
	if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: not mounted
		return fmt.Errorf("unmount the overlay of %s: %w", workload, err)
	}
	// Gone at once, or not at all.
	trash, trashLock, err := s.stage()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(trash), trashLock.Close()) }()
	return os.Rename(dir, filepath.Join(trash, workload))
}
