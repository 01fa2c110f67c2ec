package protocol

import "net/netip"

// Network gives the guest's network interfaces what the pod's have on the host. It may be sent again: what is there stays, what
// differs is replaced.
type Network struct {
	Interfaces []Interface `json:"interfaces"`
	Routes     []Route     `json:"routes,omitzero" wire:"default"`
	Neighbors  []Neighbor  `json:"neighbors,omitzero" wire:"default"`
	// Sysctls are parameters of the kernel's network, such as net.ipv4.ip_forward.
	Sysctls []Pair `json:"sysctls,omitzero" wire:"default"`
}

// Interface is one network interface. The guest knows it by its hardware address and gives it the name.
type Interface struct {
	Name string `json:"name"`
	MAC  string `json:"mac"` // "02:00:00:00:00:01"
	MTU  uint32 `json:"mtu"` // bytes
	// Addresses are the interface's, with the lengths of their networks' prefixes.
	Addresses []netip.Prefix `json:"addresses,omitzero" wire:"default"`
}

// Route is one line of the main routing table.
type Route struct {
	Interface   string       `json:"interface"` // its name
	Destination netip.Prefix `json:"destination"`
	Gateway     *netip.Addr  `json:"gateway,omitzero" wire:"option"`
	Source      *netip.Addr  `json:"source,omitzero" wire:"option"` // preferred
	// OnLink: the gateway is reached over the interface although no route says so.
	OnLink bool   `json:"on_link,omitzero" wire:"default"`
	Metric uint32 `json:"metric,omitzero" wire:"default"`
	MTU    uint32 `json:"mtu,omitzero" wire:"default"` // bytes; 0: the interface's
}

// Neighbor is a permanent entry of the table of neighbours: the hardware address of an internet address.
type Neighbor struct {
	Interface string     `json:"interface"` // its name
	Address   netip.Addr `json:"address"`
	MAC       string     `json:"mac"`
}
