package config

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/limpet-run/limpet/runtime/egress"
)

const (
	// MinMemoryMiB is what a guest needs to be of use. Measured: kernel, unpacked image (it lives in memory), agent and one crun
	// take 40 MiB; 96 leave more than 50 to the container.
	MinMemoryMiB = 96
	// MaxVCPUs is how many processors the guest's kernel can have (CONFIG_NR_CPUS).
	MaxVCPUs = 64
	// MaxMemoryMiB leaves half of the addresses that an emulated processor has (40 bits) to devices.
	MaxMemoryMiB = 512 << 10
	// MaxPoolSize is more machines than wait for something on any host.
	MaxPoolSize = 64
	// minStorageMiB has room for a journal and a small image; maxStorageMiB is the largest ext4 with the blocks that mke2fs chooses.
	minStorageMiB = 64
	maxStorageMiB = 16 << 20
	// maxStateDir leaves room for "/<16 hex digits>/vsock/" and a socket's name in the 108 bytes of a unix socket's path.
	maxStateDir = 56
)

// validate tells which value is not allowed, and what is.
func (c *Config) validate() error {
	for _, path := range []struct{ key, value string }{
		{"state_dir", c.StateDir}, {"kernel", c.Kernel}, {"image", c.Image}, {"tools", c.Tools}, {"storage.dir", c.Storage.Dir},
		{"template.dir", c.Template.Dir},
		{"network.leases_dir", c.Network.LeasesDir},
	} {
		if !filepath.IsAbs(path.value) {
			return invalid(path.key, path.value, "an absolute path")
		}
	}
	switch {
	case len(c.StateDir) > maxStateDir:
		return invalid("state_dir", c.StateDir, fmt.Sprintf("a path of at most %d bytes", maxStateDir))
	case c.Hypervisor.Path == "":
		return invalid("hypervisor.path", "", "a program's path or name")
	case c.Vsock.Daemon == "":
		return invalid("vsock.daemon", "", "a program's path or name")
	case c.VM.VCPUs < 1 || c.VM.VCPUs > MaxVCPUs:
		return invalid("vm.vcpus", c.VM.VCPUs, fmt.Sprintf("1 to %d", MaxVCPUs))
	case c.VM.MemoryMiB < MinMemoryMiB:
		return invalid("vm.memory_mib", c.VM.MemoryMiB, fmt.Sprintf("at least %d, the minimum that the guest needs", MinMemoryMiB))
	case c.VM.MaxVCPUs < 0 || c.VM.MaxVCPUs > MaxVCPUs:
		return invalid("vm.max_vcpus", c.VM.MaxVCPUs, fmt.Sprintf("0 to %d", MaxVCPUs))
	case c.VM.MaxMemoryMiB < 0 || c.VM.MaxMemoryMiB > MaxMemoryMiB:
		return invalid("vm.max_memory_mib", c.VM.MaxMemoryMiB, fmt.Sprintf("0 to %d", MaxMemoryMiB))
	case c.Storage.MiB != 0 && (c.Storage.MiB < minStorageMiB || c.Storage.MiB > maxStorageMiB):
		return invalid("storage.mib", c.Storage.MiB, fmt.Sprintf("0, or %d to %d", minStorageMiB, maxStorageMiB))
	case c.Pool.Size < 1 || c.Pool.Size > MaxPoolSize:
		return invalid("pool.size", c.Pool.Size, fmt.Sprintf("1 to %d", MaxPoolSize))
	case time.Duration(c.Timeouts.Boot) <= 0:
		return invalid("timeouts.boot", time.Duration(c.Timeouts.Boot), "more than 0")
	}
	for name, path := range c.GuestData {
		if path != "" && !filepath.IsAbs(path) {
			return invalid("guest_data."+name, path, "an absolute path, or empty")
		}
	}
	if err := oneOf("hypervisor.accelerator", c.Hypervisor.Accelerator, "auto", "kvm", "tcg"); err != nil {
		return err
	}
	if err := oneOf("vsock.backend", c.Vsock.Backend, "auto", "kernel", "daemon"); err != nil {
		return err
	}
	for _, name := range c.AllowedAnnotations {
		if err := oneOf("allowed_annotations", name, annotations...); err != nil {
			return err
		}
	}
	if _, err := egress.New(c.Egress.Hosts, c.Egress.CIDRs); err != nil {
		return fmt.Errorf("egress: %w", err)
	}
	for _, server := range c.Egress.NameServers {
		if _, err := egress.ParseServer(server); err != nil {
			return invalid("egress.nameservers", server, "an address, or an address and a port: 192.0.2.1:53")
		}
	}
	return c.Network.validate()
}

// maxBridge is how long an interface's name can be: IFNAMSIZ without the zero at its end.
const maxBridge = 15

func (n *Network) validate() error {
	if len(n.Bridge) == 0 || len(n.Bridge) > maxBridge || strings.ContainsAny(n.Bridge, "/ \t\n:%") {
		return invalid("network.bridge", n.Bridge, fmt.Sprintf("the name of an interface, at most %d bytes", maxBridge))
	}
	if len(n.Subnets) == 0 {
		return invalid("network.subnets", n.Subnets, "at least one network")
	}
	for _, subnet := range n.Subnets {
		if _, err := netip.ParsePrefix(subnet); err != nil {
			return invalid("network.subnets", subnet, "a network such as 10.143.0.0/24")
		}
	}
	for _, dir := range n.PluginDirs {
		if !filepath.IsAbs(dir) {
			return invalid("network.plugin_dirs", dir, "an absolute path")
		}
	}
	return nil
}

func oneOf(key, value string, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return invalid(key, value, "one of "+strings.Join(allowed, ", "))
}

func invalid(key string, value any, allowed string) error {
	if text, ok := value.(string); ok {
		value = fmt.Sprintf("%q", text)
	}
	return fmt.Errorf("key %q is %v: must be %s", key, value, allowed)
}
