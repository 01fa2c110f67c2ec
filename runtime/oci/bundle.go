// Package oci reads OCI bundles and plans what a container needs of the host and of the guest. It changes nothing.
package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Load reads the configuration of the bundle in dir. A bundle without one, or with a broken one, is an ErrInvalidArgument.
func Load(dir string) (*specs.Spec, error) {
	path := filepath.Join(dir, "config.json")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is not a bundle: it has no config.json: %w: %w", dir, err, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return nil, fmt.Errorf("read bundle %s: %w", dir, err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(text, &spec); err != nil {
		return nil, fmt.Errorf("bundle configuration %s is broken: %w: %w", path, err, errdefs.ErrInvalidArgument)
	}
	for _, part := range []struct {
		name    string
		missing bool
	}{
		{"process", spec.Process == nil}, {"root", spec.Root == nil}, {"linux", spec.Linux == nil},
	} {
		if part.missing {
			return nil, fmt.Errorf("bundle configuration %s has no %q: %w", path, part.name, errdefs.ErrInvalidArgument)
		}
	}
	if len(spec.Process.Args) == 0 {
		return nil, fmt.Errorf("bundle configuration %s names no command (process.args): %w", path, errdefs.ErrInvalidArgument)
	}
	return &spec, nil
}
