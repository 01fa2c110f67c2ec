package images

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/limpet-run/limpet/guest/protocol"
)

// source is an image where it comes from.
type source struct {
	digest string // of the manifest; of the configuration if there is none
	config v1.ConfigFile
	layers []blob // the lowest first
}

// blob is a layer's archive, compressed or not.
type blob struct {
	digest string
	diffID string
	size   int64 // bytes
	// open begins to read it. What is read is checked: the reader fails at its end if the digest or the size is another.
	open func(ctx context.Context) (io.ReadCloser, error)
}

// resolve finds an image for a platform.
func (s *Store) resolve(ctx context.Context, ref reference, platform v1.Platform, auth *protocol.RegistryAuth) (*source, error) {
	var image *source
	var err error
	if ref.remote != nil {
		image, err = resolveRemote(ctx, ref.remote, platform, auth)
	} else {
		image, err = resolveLocal(s.Share, ref, platform)
	}
	if err != nil {
		return nil, err
	}
	return image, image.check(platform)
}

// check makes sure that it is an image that can be unpacked, for that platform.
func (i *source) check(platform v1.Platform) error {
	config := i.config
	if config.OS != platform.OS || config.Architecture != platform.Architecture {
		return fmt.Errorf("it is for %s/%s, not for %s: name the platform that it is for to pull it all the same: %w", config.OS,
			config.Architecture, platform, errdefs.ErrFailedPrecondition)
	}
	if len(i.layers) > maxLayers {
		return fmt.Errorf("it has %d layers, want at most %d: %w", len(i.layers), maxLayers, errdefs.ErrResourceExhausted)
	}
	for _, layer := range i.layers {
		if layer.size < 0 {
			return fmt.Errorf("layer %s has a size of %d bytes: %w", layer.digest, layer.size, errdefs.ErrDataLoss)
		}
	}
	return nil
}

// info is what is told of the image.
func (i *source) info(reference string) protocol.ImageInfo {
	config := i.config.Config
	info := protocol.ImageInfo{
		Reference: reference, Digest: i.digest, Architecture: i.config.Architecture, OS: i.config.OS,
		LayerCount: uint64(len(i.layers)), Layers: []string{},
		Entrypoint: config.Entrypoint, Cmd: config.Cmd, Env: config.Env,
		Workdir: optional(config.WorkingDir), User: optional(config.User),
	}
	if !i.config.Created.IsZero() {
		info.Created = optional(i.config.Created.UTC().Format(time.RFC3339))
	}
	for _, layer := range i.layers {
		info.Layers = append(info.Layers, layer.digest)
		info.Size += uint64(layer.size)
	}
	return info
}

func optional(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// parsePlatform reads "os/architecture", perhaps with a variant; nil is the machine's own.
func parsePlatform(text *string, own string) (v1.Platform, error) {
	if text == nil {
		return v1.Platform{OS: "linux", Architecture: own}, nil
	}
	platform, err := v1.ParsePlatform(*text)
	if err == nil && (platform.OS == "" || platform.Architecture == "") {
		err = fmt.Errorf("want os/architecture")
	}
	if err != nil {
		return v1.Platform{}, fmt.Errorf("platform %.64q: %w: %w", *text, err, errdefs.ErrInvalidArgument)
	}
	return *platform, nil
}

// pair joins the layers of a manifest to what their files are to be, by the configuration.
func pair(layers []blob, config v1.ConfigFile) error {
	if len(layers) != len(config.RootFS.DiffIDs) {
		return fmt.Errorf("its manifest has %d layers and its configuration %d: it is no image of a container: %w", len(layers),
			len(config.RootFS.DiffIDs), errdefs.ErrDataLoss)
	}
	for i, id := range config.RootFS.DiffIDs {
		if err := checkDigest(id); err != nil {
			return err
		}
		layers[i].diffID = id.String()
	}
	return nil
}

// checkDigest accepts the one kind of digest that images have.
func checkDigest(digest v1.Hash) error {
	if digest.Algorithm != "sha256" {
		return fmt.Errorf("digest %.80q is not of sha256: %w", digest.String(), errdefs.ErrDataLoss)
	}
	return nil
}

// parseConfig reads an image's configuration.
func parseConfig(text []byte) (v1.ConfigFile, error) {
	var config v1.ConfigFile
	if err := json.Unmarshal(text, &config); err != nil {
		return config, fmt.Errorf("read its configuration: %w: %w", err, errdefs.ErrDataLoss)
	}
	return config, nil
}
