package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
)

// Load reads the configuration file at path, then the *.toml files of the directory conf.d beside it in the order of their
// names; what a later file sets replaces what an earlier one set, the defaults come first. An empty path stands for the one that
// PathVariable holds, or else for DefaultPath; that file may be missing, a named one may not. The error names the file, and the
// key if there is one.
func Load(path string) (Config, error) {
	if path == "" {
		path = os.Getenv(PathVariable)
	}
	if path == "" {
		return load(DefaultPath, false)
	}
	return load(path, true)
}

// LoadIfThere is Load for a file that may be missing.
func LoadIfThere(path string) (Config, error) { return load(path, false) }

func load(path string, required bool) (Config, error) {
	config := Default()
	text, err := os.ReadFile(path)
	switch {
	case err == nil:
		if err := config.apply(path, text); err != nil {
			return Config{}, err
		}
	case required || !errors.Is(err, fs.ErrNotExist):
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	// Glob sorts; its only error is a bad pattern, which a directory's name could make it.
	dropins, err := filepath.Glob(filepath.Join(filepath.Dir(path), "conf.d", "*.toml"))
	if err != nil {
		return Config{}, fmt.Errorf("look for drop-ins of configuration %s: %w", path, err)
	}
	for _, dropin := range dropins {
		text, err := os.ReadFile(dropin)
		if err != nil {
			return Config{}, fmt.Errorf("read configuration: %w", err)
		}
		if err := config.apply(dropin, text); err != nil {
			return Config{}, err
		}
	}
	return config, nil
}

// LoadBody reads a whole configuration that came as text, in place of any file.
func LoadBody(body []byte) (Config, error) {
	config := Default()
	if err := config.apply("(runtime options)", body); err != nil {
		return Config{}, err
	}
	return config, nil
}

// apply sets what the text of one file says. The configuration was valid before, so whatever is wrong now is that file's doing.
func (c *Config) apply(file string, text []byte) error {
	if err := decode(text, c); err != nil {
		return fmt.Errorf("configuration %s: %w: %w", file, err, errdefs.ErrInvalidArgument)
	}
	if err := c.validate(); err != nil {
		return fmt.Errorf("configuration %s: %w: %w", file, err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// decode reads TOML into config; a key that the structure does not have is an error.
func decode(text []byte, config *Config) error {
	err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(config)
	var unknown *toml.StrictMissingError
	if errors.As(err, &unknown) {
		var errs []error
		for _, missing := range unknown.Errors {
			line, _ := missing.Position()
			errs = append(errs, fmt.Errorf("line %d: unknown key %q", line, strings.Join(missing.Key(), ".")))
		}
		return errors.Join(errs...)
	}
	var wrong *toml.DecodeError
	if errors.As(err, &wrong) {
		line, _ := wrong.Position()
		return fmt.Errorf("line %d: key %q: %w", line, strings.Join(wrong.Key(), "."), err)
	}
	return err
}
