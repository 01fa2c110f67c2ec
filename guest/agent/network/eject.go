package network

import (
	"fmt"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
)

// linksDir has a directory for each interface, in which device is the one of its card.
const linksDir = "/sys/class/net"

// Eject takes the card with that hardware address out of the machine, by what is given the card's directory in sysfs. No card has it:
// errdefs.ErrNotFound.
func Eject(mac string, eject func(device string) error) error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("eject a network card: %w", err)
	}
	for _, link := range links {
		if link.Attrs().HardwareAddr.String() == mac {
			return eject(filepath.Join(linksDir, link.Attrs().Name, "device"))
		}
	}
	return fmt.Errorf("eject the network card %.20q: there is none: %w", mac, errdefs.ErrNotFound)
}
