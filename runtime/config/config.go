// Package config is limpet's configuration: /etc/limpet/config.toml, its drop-ins, and what a container may override.
//
// Every key is documented, with its default, in default.toml; that file is also where the defaults come from.
package config

import (
	_ "embed"
	"fmt"
	"time"
)

// DefaultPath is where the configuration is looked for when nobody names a file. It need not exist.
const DefaultPath = "/etc/limpet/config.toml"

// PathVariable is the variable of the environment that names the configuration in place of DefaultPath. A shim has it from
// containerd.
const PathVariable = "LIMPET_CONFIG"

// DefaultFile is the documented configuration file with every key at its default.
//
//go:embed default.toml
var DefaultFile []byte

// Config is limpet's configuration. The meaning of each key stands in default.toml.
type Config struct {
	StateDir           string     `toml:"state_dir"`
	Kernel             string     `toml:"kernel"`
	Image              string     `toml:"image"`
	Tools              string     `toml:"tools"`
	AllowedAnnotations []string   `toml:"allowed_annotations"`
	Hypervisor         Hypervisor `toml:"hypervisor"`
	Vsock              Vsock      `toml:"vsock"`
	Virtiofs           Virtiofs   `toml:"virtiofs"`
	VM                 VM         `toml:"vm"`
	Template           Template   `toml:"template"`
	Pool               Pool       `toml:"pool"`
	Storage            Storage    `toml:"storage"`
	Egress             Egress     `toml:"egress"`
	Network            Network    `toml:"network"`
	Timeouts           Timeouts   `toml:"timeouts"`

	GuestData map[string]string `toml:"guest_data"`
}

// Hypervisor chooses the machine monitor.
type Hypervisor struct {
	Path        string `toml:"path"`
	Accelerator string `toml:"accelerator"`
}

// Vsock chooses how guest and host reach each other.
type Vsock struct {
	Backend string `toml:"backend"`
	Daemon  string `toml:"daemon"`
}

// Virtiofs chooses who serves the file share.
type Virtiofs struct {
	Daemon string `toml:"daemon"`
}

// VM is the size of a sandbox's machine.
type VM struct {
	VCPUs        int `toml:"vcpus"`
	MemoryMiB    int `toml:"memory_mib"`
	MaxVCPUs     int `toml:"max_vcpus"`
	MaxMemoryMiB int `toml:"max_memory_mib"`
}

// Template is whether sandboxes are clones, and where what they are clones of is kept.
type Template struct {
	Enabled bool   `toml:"enabled"`
	Dir     string `toml:"dir"`
}

// Pool is how many machines wait for sandboxes.
type Pool struct {
	Size int `toml:"size"`
}

// Egress is what a sandbox may reach of the world.
type Egress struct {
	Restrict    bool     `toml:"restrict"`
	Hosts       []string `toml:"hosts"`
	CIDRs       []string `toml:"cidrs"`
	NameServers []string `toml:"nameservers"`
}

// Network is the network that limpet makes itself for a sandbox.
type Network struct {
	PluginDirs []string `toml:"plugin_dirs"`
	Bridge     string   `toml:"bridge"`
	Subnets    []string `toml:"subnets"`
	Masquerade bool     `toml:"masquerade"`
	LeasesDir  string   `toml:"leases_dir"`
}

// Storage is the disk on which a guest keeps images.
type Storage struct {
	Dir string `toml:"dir"`
	MiB int    `toml:"mib"`
}

// Timeouts bounds what limpet waits for.
type Timeouts struct {
	Boot Duration `toml:"boot"`
}

// Duration is a span of time, written as in Go: "20s", "1m30s".
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	span, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a time span such as 20s", text)
	}
	*d = Duration(span)
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Default returns the configuration of DefaultFile.
func Default() Config {
	var config Config
	if err := decode(DefaultFile, &config); err != nil {
		panic("built-in configuration: " + err.Error()) // a test decodes it
	}
	return config
}
