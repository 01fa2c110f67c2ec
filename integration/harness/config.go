package harness

import (
	"maps"
	"os"

	"github.com/pelletier/go-toml/v2"
)

// TemplatesVariable is the variable of the environment by which a run has all sandboxes boot ("off") and none be a clone.
const TemplatesVariable = "LIMPET_TEST_TEMPLATES"

// WriteLimpetConfig writes a limpet configuration file for this run: the build's kernel, image and daemons, and a state directory
// below the run's. The keys of changes (tables by name, as in the file) replace those of the run or are added to them.
func (d *Daemon) WriteLimpetConfig(path string, changes map[string]any) error {
	config := map[string]any{
		"state_dir": d.StateDir(),
		"kernel":    d.Build.Path("vmlinux"),
		"image":     d.Build.Path("initramfs"),
		"tools":     d.Build.Path("tools"),
		"vsock":     map[string]any{"daemon": d.Build.Path("bin/vhost-device-vsock")},
		"template":  map[string]any{"enabled": os.Getenv(TemplatesVariable) != "off", "dir": d.TemplateDir()},
	}
	merge(config, changes)
	text, err := toml.Marshal(config)
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}

// merge sets the keys of changes in config; a table is merged with the table that is there.
func merge(config, changes map[string]any) {
	for key, value := range changes {
		table, isTable := value.(map[string]any)
		if old, ok := config[key].(map[string]any); ok && isTable {
			merged := maps.Clone(old)
			merge(merged, table)
			value = merged
		}
		config[key] = value
	}
}
