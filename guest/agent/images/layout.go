package images

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path"

	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// maxNesting is how deep an index of a layout may hold others: the layout's own, and one for the platforms of an image.
const maxNesting = 3

// readLayout reads an OCI image layout (OCI image specification, "OCI Image Layout").
func readLayout(all files, platform v1.Platform) (*source, error) {
	text, err := readDocument(all, "index.json")
	if err != nil {
		return nil, err
	}
	manifest, err := choose(all, text, platform, maxNesting)
	if err != nil {
		return nil, err
	}
	document, err := readBlob(all, manifest)
	if err != nil {
		return nil, err
	}
	parsed, err := v1.ParseManifest(bytes.NewReader(document))
	if err != nil {
		return nil, fmt.Errorf("read its manifest: %w: %w", err, errdefs.ErrDataLoss)
	}
	text, err = readBlob(all, parsed.Config)
	if err != nil {
		return nil, err
	}
	config, err := parseConfig(text)
	if err != nil {
		return nil, err
	}
	result := &source{digest: manifest.Digest.String(), config: config}
	for _, layer := range parsed.Layers {
		if err := errors.Join(checkDigest(layer.Digest), checkLayer(layer)); err != nil {
			return nil, err
		}
		digest := layer.Digest.String()
		result.layers = append(result.layers, blob{
			digest: digest, size: layer.Size, open: openBlob(all, blobName(layer.Digest), digest, layer.Size),
		})
	}
	return result, pair(result.layers, config)
}

// choose returns the one image of an index that is for the platform.
func choose(all files, index []byte, platform v1.Platform, depth int) (v1.Descriptor, error) {
	if depth == 0 {
		return v1.Descriptor{}, fmt.Errorf("its indexes are more than %d deep: %w", maxNesting, errdefs.ErrDataLoss)
	}
	parsed, err := v1.ParseIndexManifest(bytes.NewReader(index))
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("read its index: %w: %w", err, errdefs.ErrDataLoss)
	}
	var found []v1.Descriptor
	for _, entry := range parsed.Manifests {
		if entry.Platform == nil || entry.Platform.Satisfies(platform) {
			found = append(found, entry)
		}
	}
	if len(found) != 1 {
		return v1.Descriptor{}, fmt.Errorf("it has %d images for %s, want one: %w", len(found), platform, errdefs.ErrDataLoss)
	}
	if !found[0].MediaType.IsIndex() {
		return found[0], nil
	}
	nested, err := readBlob(all, found[0])
	if err != nil {
		return v1.Descriptor{}, err
	}
	return choose(all, nested, platform, depth-1)
}

// readBlob reads a document by its descriptor.
func readBlob(all files, descriptor v1.Descriptor) ([]byte, error) {
	if err := checkDigest(descriptor.Digest); err != nil {
		return nil, err
	}
	text, err := readDocument(all, blobName(descriptor.Digest))
	if err != nil {
		return nil, err
	}
	if got := digestOf(text); got != descriptor.Digest.String() {
		return nil, fmt.Errorf("blob %s has the digest %s: %w", descriptor.Digest, got, errdefs.ErrDataLoss)
	}
	return text, nil
}

func blobName(digest v1.Hash) string { return path.Join("blobs", digest.Algorithm, digest.Hex) }

// readDockerArchive reads what `docker save` writes: manifest.json, and the files that it names.
func readDockerArchive(all files) (*source, error) {
	text, err := readDocument(all, "manifest.json")
	if err != nil {
		return nil, err
	}
	var manifest []struct {
		Config string
		Layers []string
	}
	if err := json.Unmarshal(text, &manifest); err != nil {
		return nil, fmt.Errorf("read manifest.json: %w: %w", err, errdefs.ErrDataLoss)
	}
	if len(manifest) != 1 {
		return nil, fmt.Errorf("the archive has %d images, want one: %w", len(manifest), errdefs.ErrDataLoss)
	}
	text, err = readDocument(all, manifest[0].Config)
	if err != nil {
		return nil, err
	}
	config, err := parseConfig(text)
	if err != nil {
		return nil, err
	}
	// An archive has no manifest with digests: it is known by its configuration, and its layers by what their files are to be.
	result := &source{digest: digestOf(text), config: config}
	for _, name := range manifest[0].Layers {
		file, size, err := all.open(name)
		if err != nil {
			return nil, fmt.Errorf("the image is not whole: %w", err)
		}
		if err := file.Close(); err != nil {
			return nil, err
		}
		result.layers = append(result.layers, blob{size: size, open: openBlob(all, name, "", size)})
	}
	if err := pair(result.layers, config); err != nil {
		return nil, err
	}
	for i := range result.layers {
		result.layers[i].digest = result.layers[i].diffID
	}
	return result, nil
}
