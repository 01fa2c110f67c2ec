package images

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
)

// The forms of local images: a prefix, and a path below the share.
const (
	layoutPrefix        = "oci-layout:"
	dockerArchivePrefix = "docker-archive:"
)

// reference names an image.
type reference struct {
	// text is the name in full, by which the image is kept: docker.io/library/alpine:latest.
	text string
	// remote is where a registry has it. Nil: it is local.
	remote name.Reference
	// path is that of a local image, relative to the share.
	path   string
	docker bool // docker-archive, else oci-layout
}

// parseReference reads a name as people write it. A path of a local image lies below share.
func parseReference(text, share string) (reference, error) {
	if len(text) > maxReference {
		return reference{}, fmt.Errorf("reference of %d bytes, want at most %d: %w", len(text), maxReference, errdefs.ErrInvalidArgument)
	}
	for _, prefix := range []string{layoutPrefix, dockerArchivePrefix} {
		path, ok := strings.CutPrefix(text, prefix)
		if !ok {
			continue
		}
		relative, err := filepath.Rel(share, filepath.Join("/", path))
		if err != nil || !filepath.IsLocal(relative) || !filepath.IsAbs(path) {
			return reference{}, fmt.Errorf("image %q: want a path below %s: %w", text, share, errdefs.ErrInvalidArgument)
		}
		return reference{text: prefix + filepath.Clean(path), path: relative, docker: prefix == dockerArchivePrefix}, nil
	}
	remote, err := name.ParseReference(text)
	if err != nil {
		return reference{}, fmt.Errorf("image %q: %w: %w", text, err, errdefs.ErrInvalidArgument)
	}
	full := remote.Name()
	if rest, ok := strings.CutPrefix(full, name.DefaultRegistry+"/"); ok {
		full = "docker.io/" + rest
	}
	return reference{text: full, remote: remote}, nil
}
