package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/limpet-run/limpet/guest/protocol"
)

// resolveRemote asks the registry that the reference names. With several platforms to choose from it takes the one that is wanted.
func resolveRemote(ctx context.Context, ref name.Reference, platform v1.Platform, auth *protocol.RegistryAuth) (*source, error) {
	options := []remote.Option{
		remote.WithContext(ctx), remote.WithPlatform(platform), remote.WithUserAgent("limpet"),
		remote.WithTransport(&resuming{base: newTransport(), stall: stallTimeout}),
	}
	if auth != nil {
		options = append(options, remote.WithAuth(&authn.Basic{Username: auth.Username, Password: string(auth.Password)}))
	}
	descriptor, err := remote.Get(ref, options...)
	if err != nil {
		return nil, registryError(err)
	}
	image, err := descriptor.Image()
	if err != nil {
		return nil, registryError(err)
	}
	return readRemote(image)
}

// registryError gives what a registry says its kind.
func registryError(err error) error {
	refused, ok := errors.AsType[*transport.Error](err)
	if !ok {
		return err
	}
	switch refused.StatusCode {
	case http.StatusNotFound:
		return fmt.Errorf("the registry has no such image: %w: %w", err, errdefs.ErrNotFound)
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("the registry does not let us read it: give a user name and a password, or check the name: %w", err)
	}
	return err
}

// readRemote reads the manifest and the configuration, not the layers.
func readRemote(image v1.Image) (*source, error) {
	manifest, err := image.Manifest()
	if err != nil {
		return nil, fmt.Errorf("read its manifest: %w", err)
	}
	if size := manifest.Config.Size; size > maxDocument {
		return nil, fmt.Errorf("its configuration has %d bytes, want at most %d: %w", size, maxDocument, errdefs.ErrResourceExhausted)
	}
	digest, err := image.Digest()
	if err != nil {
		return nil, fmt.Errorf("read its manifest: %w", err)
	}
	text, err := image.RawConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read its configuration: %w", err)
	}
	config, err := parseConfig(text)
	if err != nil {
		return nil, err
	}
	result := &source{digest: digest.String(), config: config}
	for _, layer := range manifest.Layers {
		if err := errors.Join(checkDigest(layer.Digest), checkLayer(layer)); err != nil {
			return nil, err
		}
		result.layers = append(result.layers, blob{
			digest: layer.Digest.String(), size: layer.Size,
			open: func(context.Context) (io.ReadCloser, error) { // the image has a context
				found, err := image.LayerByDigest(layer.Digest)
				if err != nil {
					return nil, err
				}
				return found.Compressed()
			},
		})
	}
	return result, pair(result.layers, config)
}

// checkLayer makes sure that a layer is an archive of files.
func checkLayer(layer v1.Descriptor) error {
	if layer.MediaType.IsLayer() {
		return nil
	}
	return fmt.Errorf("layer %s is of the type %.128q, which holds no files: %w", layer.Digest, string(layer.MediaType), errdefs.ErrDataLoss)
}
