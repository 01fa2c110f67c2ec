package images

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// files are those of a local image, by their names in it.
type files interface {
	// open returns a file and its size in bytes. fs.ErrNotExist: there is none.
	open(name string) (io.ReadCloser, int64, error)
}

// resolveLocal reads an image that the host has put into the share. Symbolic links there lead nowhere outside of it.
func resolveLocal(share string, ref reference, platform v1.Platform) (*source, error) {
	root, err := os.OpenRoot(share)
	if err != nil {
		return nil, fmt.Errorf("open the share: %w", err)
	}
	defer root.Close()
	file, err := root.Open(ref.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	var all files
	if info.IsDir() {
		file.Close()
		all, err = newDirectory(root, ref.path)
	} else {
		all, err = newArchive(file) // open as long as this process lives: layers are read from it
	}
	if err != nil {
		return nil, err
	}
	if ref.docker {
		return readDockerArchive(all)
	}
	return readLayout(all, platform)
}

// directory is files in a directory.
type directory struct{ root *os.Root }

func newDirectory(share *os.Root, path string) (directory, error) {
	root, err := share.OpenRoot(path)
	return directory{root}, err
}

func (d directory) open(name string) (io.ReadCloser, int64, error) {
	if !filepath.IsLocal(name) {
		return nil, 0, fmt.Errorf("%.256q: %w", name, fs.ErrNotExist)
	}
	file, err := d.root.Open(name)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file: %w", name, errdefs.ErrDataLoss)
	}
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, info.Size(), nil
}

// archived is files in a tar archive.
type archived struct {
	file  *os.File
	files map[string]section
	links map[string]string // symbolic links, to names in the archive: docker save has one for a layer that is there twice
}

// section is where a file is in the archive.
type section struct{ offset, size int64 }

// maxArchived is how many files an image's archive may have: three for each layer, and some.
const maxArchived = 4096

// newArchive reads what is in an archive, but not the files.
func newArchive(file *os.File) (archived, error) {
	result := archived{file, map[string]section{}, map[string]string{}}
	reader := tar.NewReader(file)
	for {
		header, err := reader.Next()
		if err == io.EOF {
			return result, nil
		}
		if err != nil {
			return result, fmt.Errorf("it is no tar archive (a compressed one is to be decompressed first): %w: %w", err, errdefs.ErrDataLoss)
		}
		name := path.Clean(header.Name)
		if header.Typeflag == tar.TypeSymlink {
			result.links[name] = path.Join(path.Dir(name), header.Linkname)
		}
		if len(result.files)+len(result.links) > maxArchived {
			return result, fmt.Errorf("the archive has more than %d files: %w", maxArchived, errdefs.ErrDataLoss)
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		// The reader takes whole blocks only and seeks past what is not asked for: it stands where the file begins.
		offset, err := file.Seek(0, io.SeekCurrent)
		if err != nil {
			return result, err
		}
		result.files[name] = section{offset, header.Size}
	}
}

func (a archived) open(name string) (io.ReadCloser, int64, error) {
	name = path.Clean(name)
	if target, ok := a.links[name]; ok {
		name = target
	}
	found, ok := a.files[name]
	if !ok {
		return nil, 0, fmt.Errorf("%.256q is not in the archive: %w", name, fs.ErrNotExist)
	}
	return io.NopCloser(io.NewSectionReader(a.file, found.offset, found.size)), found.size, nil
}

// readDocument reads a manifest or configuration.
func readDocument(all files, name string) ([]byte, error) {
	file, size, err := all.open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the image is not whole: %w: %w", err, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if size > maxDocument {
		return nil, fmt.Errorf("%s has %d bytes, want at most %d: %w", name, size, maxDocument, errdefs.ErrResourceExhausted)
	}
	return io.ReadAll(io.LimitReader(file, maxDocument))
}

// openBlob opens a layer of a local image; one without a digest is known by what its files are to be.
func openBlob(all files, name, digest string, size int64) func(context.Context) (io.ReadCloser, error) {
	return func(ctx context.Context) (io.ReadCloser, error) {
		file, got, err := all.open(name)
		if err != nil {
			return nil, err
		}
		if got != size {
			err := fmt.Errorf("%s has %d bytes, want %d: %w", name, got, size, errdefs.ErrDataLoss)
			return nil, errors.Join(err, file.Close())
		}
		return &verified{ReadCloser: file, ctx: ctx, want: digest, hash: sha256.New()}, nil
	}
}

// verified fails at the end of what it reads if that has another digest.
type verified struct {
	io.ReadCloser
	ctx  context.Context // ends the reading
	want string
	hash hash.Hash
}

// Read implements io.Reader.
func (v *verified) Read(buffer []byte) (int, error) {
	if err := v.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := v.ReadCloser.Read(buffer)
	v.hash.Write(buffer[:n])
	if err == io.EOF && v.want != "" {
		if got := "sha256:" + hex.EncodeToString(v.hash.Sum(nil)); got != v.want {
			err = fmt.Errorf("it has the digest %s, want %s: %w", got, v.want, errdefs.ErrDataLoss)
		}
	}
	return n, err
}

// digestOf is the digest of a text.
func digestOf(text []byte) string {
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:])
}
