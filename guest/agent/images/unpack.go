package images

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// unpack writes the files of a layer below dir, which is empty, in the form of a lower directory of overlayfs. parents are the layers
// below, the nearest first. It reads blob to its end and fails if what it decompresses to has another digest than diffID.
func unpack(ctx context.Context, blob io.Reader, diffID, dir string, parents []string) error {
	plain, err := compression.DecompressStream(blob)
	if err != nil {
		return fmt.Errorf("decompress: %w", err)
	}
	defer plain.Close()
	hash := sha256.New()
	content := io.TeeReader(plain, hash)
	checks := &checks{free: func() (uint64, error) { return freeBytes(dir) }}
	_, err = archive.Apply(ctx, dir, content, archive.WithFilter(checks.filter), archive.WithConvertWhiteout(convertWhiteout),
		archive.WithParents(parents))
	if err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	if rest, err := io.Copy(io.Discard, io.LimitReader(content, maxTrailer+1)); err != nil {
		return fmt.Errorf("read the end of the archive: %w", err)
	} else if rest > maxTrailer {
		return fmt.Errorf("more than %d bytes follow the archive's end: %w", maxTrailer, errdefs.ErrDataLoss)
	}
	if _, err := io.Copy(io.Discard, blob); err != nil {
		return fmt.Errorf("read the end of the blob: %w", err)
	}
	if got := "sha256:" + hex.EncodeToString(hash.Sum(nil)); got != diffID {
		return fmt.Errorf("its files have the digest %s, want %s: %w", got, diffID, errdefs.ErrDataLoss)
	}
	return nil
}

// checks refuses what a layer may not have.
type checks struct {
	entries int
	names   int
	size    int64
	free    func() (uint64, error)
}

// filter looks at one file before it is made.
func (c *checks) filter(header *tar.Header) (bool, error) {
	if err := c.check(header); err != nil {
		return false, fmt.Errorf("file %.256q: %w", header.Name, err)
	}
	return true, nil
}

func (c *checks) check(header *tar.Header) error {
	// A name may begin with a slash: it is the layer's root.
	if !isInside(header.Name) {
		return fmt.Errorf("lies outside the layer: %w", errdefs.ErrDataLoss)
	}
	if header.Typeflag == tar.TypeLink && !isInside(header.Linkname) {
		return fmt.Errorf("is a link to %.256q, outside the layer: %w", header.Linkname, errdefs.ErrDataLoss)
	}
	c.entries++
	c.names += len(header.Name) + len(header.Linkname)
	for key, value := range header.PAXRecords {
		c.names += len(key) + len(value)
	}
	c.size += header.Size
	switch {
	case c.entries > maxEntries:
		return fmt.Errorf("is one of more than %d: %w", maxEntries, errdefs.ErrResourceExhausted)
	case c.names > maxNames:
		return fmt.Errorf("names and attributes come to more than %d bytes: %w", maxNames, errdefs.ErrResourceExhausted)
	case header.Size < 0, c.size > maxLayerSize:
		return fmt.Errorf("the layer's files come to more than %d bytes: %w", int64(maxLayerSize), errdefs.ErrResourceExhausted)
	case header.Size < 1<<20: // what is smaller fails soon enough
		return nil
	}
	free, err := c.free()
	if err != nil {
		return err
	}
	if uint64(header.Size) > free {
		return fmt.Errorf("%d bytes, and %d are free: %w: %w", header.Size, free, unix.ENOSPC, errdefs.ErrResourceExhausted)
	}
	return nil
}

// isInside tells whether a name of a layer's archive, taken from the layer's root, stays below it.
func isInside(name string) bool {
	relative := strings.TrimLeft(name, "/")
	return relative == "" || filepath.IsLocal(relative)
}

// convertWhiteout turns what hides a file of the layers below into overlayfs's form. Nothing of the same layer is hidden.
func convertWhiteout(header *tar.Header, path string) (bool, error) {
	if hidden, ok := strings.CutPrefix(filepath.Base(path), ".wh."); ok && filepath.Base(path) != ".wh..wh..opq" {
		if _, err := os.Lstat(filepath.Join(filepath.Dir(path), hidden)); err == nil {
			return false, nil
		}
	}
	write, err := archive.OverlayConvertWhiteout(header, path)
	if errors.Is(err, unix.ENOENT) {
		err = fmt.Errorf("its directory is no directory: %w: %w", err, errdefs.ErrDataLoss)
	}
	return write, err
}

// freeBytes is how much room the file system of a path has.
func freeBytes(path string) (uint64, error) {
	var status unix.Statfs_t
	if err := unix.Statfs(path, &status); err != nil {
		return 0, fmt.Errorf("look at the free space of %s: %w", path, err)
	}
	return status.Bavail * uint64(status.Bsize), nil
}
