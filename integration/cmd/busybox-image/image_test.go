package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"path"
	"strings"
	"testing"
)

func TestImageIsReproducible(t *testing.T) {
	var first, second bytes.Buffer
	// The order in which busybox lists its applets must not matter.
	if err := writeImage(&first, "limpet.test/busybox:latest", nil, []byte("binary"), []string{"sh", "cat", "[", "cat"}); err != nil {
		t.Fatal(err)
	}
	if err := writeImage(&second, "limpet.test/busybox:latest", nil, []byte("binary"), []string{"cat", "[", "sh"}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the same image was written in two ways")
	}
}

func TestImageIsWhole(t *testing.T) {
	var image bytes.Buffer
	if err := writeImage(&image, "limpet.test/busybox:latest", []string{"sleep", "1"}, []byte("binary"), []string{"sh", "cat"}); err != nil {
		t.Fatal(err)
	}
	files := readTar(t, image.Bytes())
	for name, content := range files {
		if path.Dir(name) != "blobs/sha256" || path.Base(name) == "sha256" {
			continue
		}
		if sum := sha256.Sum256(content); hex.EncodeToString(sum[:]) != path.Base(name) {
			t.Errorf("%s does not hold what its name says", name)
		}
	}

	var index struct{ Manifests []descriptor }
	decode(t, files["index.json"], &index)
	if len(index.Manifests) != 1 || index.Manifests[0].Annotations[nameAnnotation] != "limpet.test/busybox:latest" {
		t.Fatalf("index names %+v", index.Manifests)
	}
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	decode(t, blob(t, files, index.Manifests[0]), &manifest)
	if len(manifest.Layers) != 1 {
		t.Fatalf("manifest has %d layers, want 1", len(manifest.Layers))
	}
	var config struct{ Config struct{ Cmd []string } }
	decode(t, blob(t, files, manifest.Config), &config)
	if got := strings.Join(config.Config.Cmd, " "); got != "sleep 1" {
		t.Errorf("its command is %q", got)
	}
	layer := readTar(t, blob(t, files, manifest.Layers[0]))
	if string(layer["bin/busybox"]) != "binary" {
		t.Error("the layer has no busybox")
	}
	for _, name := range []string{"bin/sh", "bin/cat", "etc/passwd", "etc/group", "tmp/", "root/", "usr/bin/env"} {
		if _, ok := layer[name]; !ok {
			t.Errorf("the layer has no %s", name)
		}
	}
}

// readTar returns an archive's entries by name; it fails the test if the archive is cut short.
func readTar(t *testing.T, archive []byte) map[string][]byte {
	t.Helper()
	// Two blocks of zeros end a tar; Reader takes a plain end of file for one, other readers warn.
	if !bytes.HasSuffix(archive, make([]byte, 1024)) {
		t.Error("the archive has no end")
	}
	files := map[string][]byte{}
	for reader := tar.NewReader(bytes.NewReader(archive)); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		files[header.Name] = content
	}
}

func blob(t *testing.T, files map[string][]byte, want descriptor) []byte {
	t.Helper()
	content, ok := files["blobs/sha256/"+want.Digest[len("sha256:"):]]
	if !ok || len(content) != want.Size {
		t.Fatalf("blob %s: %d bytes, want %d", want.Digest, len(content), want.Size)
	}
	return content
}

func decode(t *testing.T, data []byte, value any) {
	t.Helper()
	if err := json.Unmarshal(data, value); err != nil {
		t.Fatalf("%s: %v", data, err)
	}
}
