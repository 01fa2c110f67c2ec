package images

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

// newTestStore is a store in memory of that many bytes, whose overlays go with the test.
func newTestStore(t *testing.T, size int) *Store {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
	dir := t.TempDir()
	root := filepath.Join(dir, "store")
	share := filepath.Join(dir, "share")
	for _, path := range []string{root, share} {
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		overlays, err := filepath.Glob(filepath.Join(root, overlaysDir, "*", rootfsName))
		if err != nil {
			t.Error(err)
		}
		for _, overlay := range append(overlays, root) {
			if err := unix.Unmount(overlay, 0); err != nil && err != unix.EINVAL {
				t.Errorf("unmount %s: %v", overlay, err)
			}
		}
	})
	store, err := Open(Options{
		Root: root, Share: share, Logger: slog.New(slog.DiscardHandler),
		FindDisk: func(string) (string, error) { return "", errdefs.ErrNotFound },
	})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// file is one entry of a layer.
type file struct {
	tar.Header
	text string
}

func regular(name, text string) file {
	return file{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}, text}
}

func directoryEntry(name string) file {
	return file{Header: tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}}
}

func link(kind byte, name, target string) file {
	return file{Header: tar.Header{Name: name, Typeflag: kind, Linkname: target, Mode: 0o777}}
}

// archiveOf is the tar archive of files.
func archiveOf(t testing.TB, files ...file) []byte {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, f := range files {
		f.Header.Size = int64(len(f.text))
		if err := w.WriteHeader(&f.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes()
}

// imageOf is an image for this machine of layers' archives.
func imageOf(t testing.TB, layers ...[]byte) v1.Image {
	t.Helper()
	platform, err := parsePlatform(nil, testArchitecture)
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{
		OS: platform.OS, Architecture: platform.Architecture,
		Config: v1.Config{Entrypoint: []string{"/bin/sh"}, Cmd: []string{"-c", "id"}, Env: []string{"A=1"}, WorkingDir: "/w", User: "7"},
	})
	if err != nil {
		t.Fatal(err)
	}
	var all []v1.Layer
	for _, archive := range layers {
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil })
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, layer)
	}
	if image, err = mutate.AppendLayers(image, all...); err != nil {
		t.Fatal(err)
	}
	return image
}

// testRegistry is a registry on this host; wrap may change what it answers.
func testRegistry(t *testing.T, wrap func(http.Handler) http.Handler) string {
	t.Helper()
	handler := registry.New(registry.Logger(slogDiscard()))
	if wrap != nil {
		handler = wrap(handler)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// push puts an image into a registry and returns its name.
func push(t *testing.T, host, repository string, image v1.Image) string {
	t.Helper()
	ref, err := name.ParseReference(host + "/" + repository)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, image); err != nil {
		t.Fatal(err)
	}
	return ref.Name()
}

// pull pulls an image and returns what was told of it on the way.
func (s *Store) pullForTest(t *testing.T, image string) (info protocol.ImageInfo, told []protocol.ProgressResponse, err error) {
	t.Helper()
	info, err = s.Pull(t.Context(), protocol.PullRequest{Image: image}, func(p protocol.ProgressResponse) { told = append(told, p) })
	return info, told, err
}

// mustPrepare makes the overlay of an image and returns its root directory.
func mustPrepare(t *testing.T, s *Store, image, workload string) string {
	t.Helper()
	info, err := s.PrepareOverlay(image, workload)
	if err != nil {
		t.Fatal(err)
	}
	return info.RootfsPath
}

// wantNothingHalfDone makes sure that a pull left no image, no file in staging and, if layers says so, no layer.
func wantNothingHalfDone(t *testing.T, s *Store, layers int) {
	t.Helper()
	if list, err := s.List(); err != nil || len(list) > 0 {
		t.Errorf("images: %+v, %v", list, err)
	}
	for dir, want := range map[string]int{stagingDir: 0, layersDir: layers} {
		if left, err := os.ReadDir(filepath.Join(s.Root, dir)); err != nil || len(left) != want {
			t.Errorf("%s: %v, %v, want %d", dir, left, err, want)
		}
	}
}

// look is what a path of a root directory holds: a file's text, a link's target, "dir", or why there is none.
func look(root, path string) string {
	full := filepath.Join(root, path)
	info, err := os.Lstat(full)
	switch {
	case os.IsNotExist(err):
		return "none"
	case err != nil:
		return err.Error()
	case info.IsDir():
		return "dir"
	case info.Mode()&os.ModeSymlink != 0:
		target, _ := os.Readlink(full)
		return "-> " + target
	case !info.Mode().IsRegular():
		return info.Mode().Type().String()
	}
	text, err := os.ReadFile(full)
	if err != nil {
		return err.Error()
	}
	return string(text)
}
