// Package bridge makes networks of limpet's own, for sandboxes that nobody else gives one: a network namespace whose interface is joined
// to a bridge of the host by CNI's plugins. How its packets get from there into a machine is package network's.
package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"

	"github.com/limpet-run/limpet/runtime/config"
	"github.com/limpet-run/limpet/runtime/network"
)

const (
	// networkName is what CNI's plugins keep leases under.
	networkName = "limpet"
	// interfaceName is the network's interface in the namespace.
	interfaceName = "eth0"
)

// Network is one sandbox's network: all that is needed to make it, and to remove it later, also from another process.
type Network struct {
	ID         string          `json:"id"`   // as CNI knows it: unique on this host, of letters and digits
	Path       string          `json:"path"` // the network namespace is mounted there
	PluginDirs []string        `json:"plugin_dirs"`
	CacheDir   string          `json:"cache_dir"` // where CNI keeps what it did
	List       json.RawMessage `json:"list"`      // CNI's configuration
}

// Plan says what network to make as the configuration has it.
func Plan(settings config.Network, id, path string) (Network, error) {
	type object = map[string]any
	var ranges [][]object
	var routes []object
	for _, text := range settings.Subnets {
		subnet, err := netip.ParsePrefix(text)
		if err != nil {
			return Network{}, fmt.Errorf("network.subnets: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		ranges = append(ranges, []object{{"subnet": subnet.Masked().String()}})
		everywhere := "0.0.0.0/0"
		if subnet.Addr().Is6() {
			everywhere = "::/0"
		}
		routes = append(routes, object{"dst": everywhere})
	}
	list, err := json.Marshal(object{
		"cniVersion": "1.0.0", "name": networkName,
		"plugins": []object{
			{
				"type": "bridge", "bridge": settings.Bridge, "isGateway": true, "ipMasq": settings.Masquerade, "hairpinMode": true,
				"ipam": object{"type": "host-local", "dataDir": settings.LeasesDir, "ranges": ranges, "routes": routes},
			},
			{"type": "firewall"}, // a host whose packet filter forwards nothing, as Docker's, forwards this
		},
	})
	if err != nil {
		return Network{}, err
	}
	return Network{ID: id, Path: path, PluginDirs: settings.PluginDirs, CacheDir: settings.LeasesDir, List: list}, nil
}

// Make makes the network namespace and its interface. On error nothing is left.
func (n Network) Make(ctx context.Context) error {
	list, err := libcni.NetworkConfFromBytes(n.List)
	if err != nil {
		return fmt.Errorf("make a network: %w", err)
	}
	if err := network.Make(n.Path); err != nil {
		return err
	}
	if _, err := n.cni().AddNetworkList(ctx, list, n.runtime()); err != nil {
		err = fmt.Errorf("join a network to the bridge: %w: CNI's plugins bridge, host-local and firewall (the package "+
			"containernetworking-plugins) must be where network.plugin_dirs says (%v), and iptables in PATH", err, n.PluginDirs)
		return errors.Join(err, n.Remove(context.WithoutCancel(ctx)))
	}
	return nil
}

// Remove takes back what Make did; the bridge, which others may use, stays. What is not there is no error.
func (n Network) Remove(ctx context.Context) error {
	if _, err := os.Lstat(n.Path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	list, err := libcni.NetworkConfFromBytes(n.List)
	if err == nil {
		err = n.cni().DelNetworkList(ctx, list, n.runtime())
	}
	if err != nil {
		return fmt.Errorf("remove network %s from bridge: %w", n.ID, err)
	}
	return network.Unmake(n.Path)
}

func (n Network) cni() *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir(n.PluginDirs, n.CacheDir, nil)
}

func (n Network) runtime() *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: n.ID, NetNS: n.Path, IfName: interfaceName}
}
