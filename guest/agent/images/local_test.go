package images

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func localImage(t *testing.T) v1.Image {
	return imageOf(t, archiveOf(t, regular("a", "1"), regular("b", "2")), archiveOf(t, regular(".wh.a", "")))
}

// writeLayout writes an image's OCI layout into the share.
func writeLayout(t *testing.T, s *Store, name string, images ...v1.Image) string {
	t.Helper()
	dir := filepath.Join(s.Share, name)
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for _, image := range images {
		if err := path.AppendImage(image); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// archiveDir writes a directory's files into a tar archive beside it.
func archiveDir(t *testing.T, dir string) string {
	t.Helper()
	var all bytes.Buffer
	w := tar.NewWriter(&all)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+".tar", all.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir + ".tar"
}

func writeDockerArchive(t *testing.T, s *Store, image v1.Image) string {
	t.Helper()
	tag, err := name.NewTag("example.org/image:v1")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.Share, "saved.tar")
	if err := tarball.WriteToFile(path, tag, image); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestLocal pulls an image from a layout, as a directory and as an archive, and from what docker save writes.
func TestLocal(t *testing.T) {
	s := newTestStore(t, 16<<20)
	image := localImage(t)
	dir := writeLayout(t, s, "layout", image)
	for i, reference := range []string{
		layoutPrefix + dir, layoutPrefix + archiveDir(t, dir), dockerArchivePrefix + writeDockerArchive(t, s, image),
	} {
		info, _, err := s.pullForTest(t, reference)
		if err != nil {
			t.Error(err)
			continue
		}
		if info.Reference != reference || info.LayerCount != 2 {
			t.Errorf("%s: %+v", reference, info)
		}
		root := mustPrepare(t, s, reference, fmt.Sprint("w", i))
		if a, b := look(root, "a"), look(root, "b"); a != "none" || b != "2" {
			t.Errorf("%s: a is %s, b is %s", reference, a, b)
		}
	}
	if layers, err := os.ReadDir(filepath.Join(s.Root, layersDir)); err != nil || len(layers) != 2 {
		t.Errorf("%d layers, %v: the three images have the same two", len(layers), err)
	}
}

// TestDockerArchiveWithLinks pulls what older docker save writes of an image that has the same layer twice.
func TestDockerArchiveWithLinks(t *testing.T) {
	s := newTestStore(t, 16<<20)
	layer := archiveOf(t, regular("a", "1"))
	id := digestOf(layer)
	config := `{"os":"linux","architecture":"` + testArchitecture + `","rootfs":{"type":"layers","diff_ids":["` + id + `","` + id + `"]}}`
	path := filepath.Join(s.Share, "saved.tar")
	if err := os.WriteFile(path, archiveOf(t, regular("config.json", config), regular("one/layer.tar", string(layer)),
		link(tar.TypeSymlink, "two/layer.tar", "../one/layer.tar"),
		regular("manifest.json", `[{"Config":"config.json","Layers":["one/layer.tar","two/layer.tar"]}]`)), 0o600); err != nil {
		t.Fatal(err)
	}
	info, _, err := s.pullForTest(t, dockerArchivePrefix+path)
	if err != nil || info.LayerCount != 2 || info.Digest != digestOf([]byte(config)) {
		t.Fatalf("%+v, %v", info, err)
	}
	if got := look(mustPrepare(t, s, info.Reference, "w"), "a"); got != "1" {
		t.Errorf("a is %s", got)
	}
}

// TestLocalRefuses has images that are not whole, not what they say, or not to be reached.
func TestLocalRefuses(t *testing.T) {
	outside := writeLayout(t, &Store{Options{Share: t.TempDir()}}, "layout", localImage(t))
	for name, test := range map[string]struct {
		make func(t *testing.T, s *Store) string
		is   func(error) bool
	}{
		"link out of the share": {func(t *testing.T, s *Store) string {
			path := filepath.Join(s.Share, "link")
			if err := os.Symlink(outside, path); err != nil {
				t.Fatal(err)
			}
			return layoutPrefix + path
		}, func(err error) bool { return err != nil && strings.Contains(err.Error(), "escapes") }},
		"blob missing": {func(t *testing.T, s *Store) string { return layoutPrefix + spoil(t, s, os.Remove) },
			func(err error) bool { return err != nil && strings.Contains(err.Error(), "no such file") }},
		"blob changed": {func(t *testing.T, s *Store) string {
			return layoutPrefix + spoil(t, s, func(path string) error {
				text, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				text[len(text)/2] ^= 1
				return os.WriteFile(path, text, 0o600)
			})
		}, func(err error) bool { return err != nil }},
		"blob longer": {func(t *testing.T, s *Store) string {
			return layoutPrefix + spoil(t, s, func(path string) error {
				text, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				return os.WriteFile(path, append(text, 0), 0o600)
			})
		}, func(err error) bool { return err != nil }},
		"no archive": {func(t *testing.T, s *Store) string {
			path := filepath.Join(s.Share, "text")
			if err := os.WriteFile(path, bytes.Repeat([]byte("text"), 1000), 0o600); err != nil {
				t.Fatal(err)
			}
			return dockerArchivePrefix + path
		}, errdefs.IsDataLoss},
		"two images": {func(t *testing.T, s *Store) string {
			return layoutPrefix + writeLayout(t, s, "layout", localImage(t), imageOf(t, archiveOf(t, regular("a", "1"))))
		}, errdefs.IsDataLoss},
		"empty": {func(t *testing.T, s *Store) string { return layoutPrefix + s.Share }, errdefs.IsNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTestStore(t, 16<<20)
			if _, _, err := s.pullForTest(t, test.make(t, s)); !test.is(err) {
				t.Errorf("got %v", err)
			}
			if list, err := s.List(); err != nil || len(list) > 0 {
				t.Errorf("images: %+v, %v", list, err)
			}
		})
	}
}

// spoil changes the blob of the upper layer, which is the smallest of a layout.
func spoil(t *testing.T, s *Store, change func(path string) error) string {
	t.Helper()
	image := localImage(t)
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := layers[1].Digest()
	if err != nil {
		t.Fatal(err)
	}
	dir := writeLayout(t, s, "layout", image)
	path := filepath.Join(dir, filepath.FromSlash(blobName(digest)))
	if err := os.Chmod(path, fs.FileMode(0o600)); err != nil {
		t.Fatal(err)
	}
	if err := change(path); err != nil {
		t.Fatal(err)
	}
	return dir
}

// documents are the files of a local image in memory.
type documents map[string]string

func (d documents) open(name string) (io.ReadCloser, int64, error) {
	text, ok := d[name]
	if !ok {
		return nil, 0, fs.ErrNotExist
	}
	return io.NopCloser(strings.NewReader(text)), int64(len(text)), nil
}

// FuzzLocal: whatever the documents of a local image say, it is an error or an image whose layers are all of its configuration.
func FuzzLocal(f *testing.F) {
	const config = `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["sha256:` +
		"0000000000000000000000000000000000000000000000000000000000000000" + `"]}}`
	f.Add(`{"manifests":[{"digest":"DIGEST","size":1}]}`, `{"config":{"digest":"DIGEST"},"layers":[{"digest":"DIGEST","size":2}]}`, config)
	f.Add(`{"manifests":[]}`, `[{"Config":"config","Layers":["layer"]}]`, config)
	f.Fuzz(func(t *testing.T, index, manifest, config string) {
		all := documents{"manifest.json": manifest, "config": config, "layer": "x"}
		put := func(text string) string { // as a blob
			digest := digestOf([]byte(text))
			all["blobs/sha256/"+hexOf(digest)] = text
			return digest
		}
		layout := strings.ReplaceAll(manifest, "DIGEST", put(config))
		all["index.json"] = strings.ReplaceAll(index, "DIGEST", put(layout))
		platform := v1.Platform{OS: "linux", Architecture: "amd64"}
		for _, read := range []func() (*source, error){
			func() (*source, error) { return readLayout(all, platform) },
			func() (*source, error) { return readDockerArchive(all) },
		} {
			image, err := read()
			if err != nil {
				continue
			}
			_ = image.info("reference")
			for _, layer := range image.layers {
				if len(hexOf(layer.diffID)) != 64 {
					t.Errorf("layer %+v", layer)
				}
			}
			chainIDs(image.layers)
		}
	})
}

// FuzzReference: whatever a reference says, a local one lies below the share.
func FuzzReference(f *testing.F) {
	f.Add("alpine")
	f.Add("oci-layout:/share/a/../b")
	f.Add("docker-archive:/share/../etc/passwd")
	f.Fuzz(func(t *testing.T, text string) {
		ref, err := parseReference(text, "/share")
		if err != nil {
			return
		}
		if ref.remote == nil && !filepath.IsLocal(ref.path) || ref.text == "" {
			t.Errorf("%+v", ref)
		}
	})
}
