package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"runtime"
	"slices"
	"time"
)

// The media types of the OCI image specification, and the annotation by which containerd names what it imports.
const (
	typeIndex      = "application/vnd.oci.image.index.v1+json"
	typeManifest   = "application/vnd.oci.image.manifest.v1+json"
	typeConfig     = "application/vnd.oci.image.config.v1+json"
	typeLayer      = "application/vnd.oci.image.layer.v1.tar"
	nameAnnotation = "io.containerd.image.name"
)

// epoch is the time of everything in the image: a build must not show when it was made.
var epoch = time.Unix(0, 0).UTC()

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// writeImage writes the image archive: a layout whose index names one manifest of one configuration and one layer. A container of the
// image runs command if it is given no other.
func writeImage(w io.Writer, name string, command []string, busybox []byte, applets []string) error {
	layer, err := buildLayer(busybox, applets)
	if err != nil {
		return err
	}
	archive := archive{tar: tar.NewWriter(w)}
	archive.directory("blobs", 0o755)
	archive.directory("blobs/sha256", 0o755)
	layerBlob := archive.blob(typeLayer, layer)
	config := archive.json(typeConfig, map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config": map[string]any{
			"Env":        []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			"Cmd":        command,
			"WorkingDir": "/",
		},
		// The layer is not compressed, so its digest is also its diff id.
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{layerBlob.Digest}},
	})
	manifest := archive.json(typeManifest, map[string]any{
		"schemaVersion": 2,
		"mediaType":     typeManifest,
		"config":        config,
		"layers":        []descriptor{layerBlob},
	})
	manifest.Annotations = map[string]string{nameAnnotation: name}
	index := encode(map[string]any{
		"schemaVersion": 2,
		"mediaType":     typeIndex,
		"manifests":     []descriptor{manifest},
	})
	archive.file("index.json", 0o644, index)
	archive.file("oci-layout", 0o644, encode(map[string]string{"imageLayoutVersion": "1.0.0"}))
	return archive.close()
}

// buildLayer returns the root file system as a tar: what a small Unix needs, and busybox under all its names.
func buildLayer(busybox []byte, applets []string) ([]byte, error) {
	var layer bytes.Buffer
	root := archive{tar: tar.NewWriter(&layer)}
	for _, name := range []string{"bin", "dev", "etc", "home", "lib", "proc", "run", "sbin", "sys", "usr", "var"} {
		root.directory(name, 0o755)
	}
	for _, name := range []string{"usr/bin", "usr/lib", "usr/sbin"} {
		root.directory(name, 0o755)
	}
	root.directory("root", 0o700)
	root.directory("tmp", 0o1777)
	root.directory("var/tmp", 0o1777)
	root.file("bin/busybox", 0o755, busybox)
	names := slices.Compact(slices.Sorted(slices.Values(applets)))
	for _, name := range names {
		if name != "busybox" {
			root.link("bin/"+name, "busybox")
		}
	}
	root.link("usr/bin/env", "../../bin/busybox")
	root.file("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n"))
	root.file("etc/group", 0o644, []byte("root:x:0:\nnogroup:x:65534:\n"))
	if err := root.close(); err != nil {
		return nil, err
	}
	return layer.Bytes(), nil
}

// archive is a tar being written. Its first error ends it: later calls do nothing and close returns it.
type archive struct {
	tar *tar.Writer
	err error
}

func (a *archive) directory(name string, mode int64) {
	a.entry(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}, nil)
}

func (a *archive) file(name string, mode int64, content []byte) {
	a.entry(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content))}, content)
}

func (a *archive) link(name, target string) {
	a.entry(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, nil)
}

// blob writes content under its digest and returns what names it.
func (a *archive) blob(mediaType string, content []byte) descriptor {
	sum := sha256.Sum256(content)
	digest := hex.EncodeToString(sum[:])
	a.file("blobs/sha256/"+digest, 0o644, content)
	return descriptor{MediaType: mediaType, Digest: "sha256:" + digest, Size: len(content)}
}

func (a *archive) json(mediaType string, value any) descriptor {
	return a.blob(mediaType, encode(value))
}

func (a *archive) entry(header *tar.Header, content []byte) {
	if a.err != nil {
		return
	}
	header.ModTime = epoch
	if a.err = a.tar.WriteHeader(header); a.err == nil {
		_, a.err = a.tar.Write(content)
	}
}

func (a *archive) close() error {
	if a.err != nil {
		return a.err
	}
	return a.tar.Close()
}

// encode returns value as JSON. The values are this program's own maps of strings and numbers, which always encode.
func encode(value any) []byte {
	data, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return data
}
