package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/pkg/archive"
	continuity "github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Export writes a layer as a tar archive of the form that images have, with what it hides of the layers below. It is not the archive that
// was pulled, byte by byte, but one of the same files. errdefs.ErrNotFound: there is no such image or layer.
func (s *Store) Export(ctx context.Context, digest string, index uint64, w io.Writer) error {
	image, err := s.find(digest)
	if err != nil {
		return err
	}
	if index >= uint64(len(image.Chain)) {
		return fmt.Errorf("image %s has %d layers, there is no layer %d: %w", digest, len(image.Chain), index, errdefs.ErrNotFound)
	}
	chain := image.Chain[index]
	lock, err := s.holdLayer(chain)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := writeLayer(ctx, s.layerFiles(chain), w); err != nil {
		return fmt.Errorf("export layer %d of %s: %w", index, digest, err)
	}
	return nil
}

// writeLayer turns a lower directory of overlayfs into a layer's archive.
func writeLayer(ctx context.Context, dir string, w io.Writer) error {
	writer := archive.NewChangeWriter(w, dir)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		name = filepath.Join("/", name)
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		hides, err := isWhiteout(path)
		switch {
		case err != nil:
			return err
		case hides:
			return writer.HandleChange(continuity.ChangeKindDelete, name, nil, nil)
		case name != "/":
			if err := writer.HandleChange(continuity.ChangeKindAdd, name, info, nil); err != nil {
				return err
			}
		}
		opaque, err := isOpaque(path, info)
		if opaque && err == nil { // ".wh..wh..opq" hides all that a directory has in the layers below
			err = writer.HandleChange(continuity.ChangeKindDelete, filepath.Join(name, ".wh..opq"), nil, nil)
		}
		return err
	})
	return errors.Join(err, writer.Close())
}

// isWhiteout tells whether a file is overlayfs's sign that there is none.
func isWhiteout(path string) (bool, error) {
	var status unix.Stat_t
	if err := unix.Lstat(path, &status); err != nil {
		return false, err
	}
	return status.Mode&unix.S_IFMT == unix.S_IFCHR && status.Rdev == 0, nil
}

// isOpaque tells whether a directory hides what it has in the layers below.
func isOpaque(path string, info fs.FileInfo) (bool, error) {
	if !info.IsDir() {
		return false, nil
	}
	var value [1]byte
	size, err := unix.Lgetxattr(path, "trusted.overlay.opaque", value[:])
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return false, nil
	}
	return size == 1 && value[0] == 'y', err
}
