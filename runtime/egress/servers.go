package egress

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
)

const (
	dnsPort = 53
	// MaxServers is how many name servers are asked, as in every resolver.
	MaxServers = 3
)

// ParseServer reads a name server: an address, or an address and a port (errdefs.ErrInvalidArgument).
func ParseServer(text string) (netip.AddrPort, error) {
	if address, err := netip.ParseAddr(text); err == nil {
		return netip.AddrPortFrom(address, dnsPort), nil
	}
	server, err := netip.ParseAddrPort(text)
	if err != nil || server.Port() == 0 {
		return netip.AddrPort{}, fmt.Errorf("name server %q: must be an address, or an address and a port: %w", text, errdefs.ErrInvalidArgument)
	}
	return server, nil
}

// Servers are the name servers of a resolv.conf, at most MaxServers. What is none of them is left out.
func Servers(resolvConf string) []netip.AddrPort {
	var servers []netip.AddrPort
	for line := range strings.Lines(resolvConf) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" || len(servers) == MaxServers {
			continue
		}
		if address, err := netip.ParseAddr(fields[1]); err == nil {
			servers = append(servers, netip.AddrPortFrom(address, dnsPort))
		}
	}
	return servers
}

// GuestServer is where the guest resolves names: the agent listens there.
const GuestServer = "127.0.0.1"

// ForGuest is what a resolv.conf becomes in a container of a sandbox with a policy: the same, but for the name servers.
func ForGuest(resolvConf string) string {
	text := "nameserver " + GuestServer + "\n"
	for line := range strings.Lines(resolvConf) {
		fields := strings.Fields(line)
		if len(fields) > 1 && (fields[0] == "search" || fields[0] == "domain" || fields[0] == "options") {
			text += strings.Join(fields, " ") + "\n"
		}
	}
	return text
}
