// Package egress is what a sandbox may reach of the world, if somebody says so: names, and ranges of addresses.
//
// A sandbox with a policy has its names resolved here, on the host. A name that is allowed is asked for at name servers, and its addresses
// are let through the gate between the sandbox and its network (network.Gate) before the answer is given:
//
//	guest: program ─ 127.0.0.1:53 ─ agent ─ vsock 6002 ─ Filter ─ name servers
//	                                                       │ addresses, for as long as they are good
//	       program ─ eth0 ─ tap ────────────────────────▶ gate ─▶ network
package egress

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
)

const (
	// MaxHosts and MaxRanges are how many a policy can have of each: every packet for an address that is not known is compared with
	// all ranges.
	MaxHosts  = 256
	MaxRanges = 64

	maxName  = 253 // bytes of a host's name without the dot at its end: RFC 1035, 2.3.4
	maxLabel = 63  // of a part between dots
)

// Policy is what may be reached. The zero value allows nothing.
type Policy struct {
	hosts  []pattern
	ranges []netip.Prefix
}

// pattern is a host's name, in lower case and without a dot at its end; or what the names end in that it stands for.
type pattern struct {
	name     string
	wildcard bool // the names that end in "."+name, at any depth, but not name itself
}

// New reads a policy: hosts are names, or "*." and a name for all names below it; ranges are addresses, or networks such as 10.0.0.0/8.
// What is neither, or too many of them, is an errdefs.ErrInvalidArgument.
func New(hosts, ranges []string) (Policy, error) {
	if len(hosts) > MaxHosts || len(ranges) > MaxRanges {
		return Policy{}, fmt.Errorf("an egress policy has at most %d hosts and %d ranges: this one has %d and %d: %w", MaxHosts, MaxRanges,
			len(hosts), len(ranges), errdefs.ErrInvalidArgument)
	}
	var policy Policy
	for _, text := range hosts {
		host, err := parseHost(text)
		if err != nil {
			return Policy{}, err
		}
		policy.hosts = append(policy.hosts, host)
	}
	for _, text := range ranges {
		prefix, err := parseRange(text)
		if err != nil {
			return Policy{}, err
		}
		policy.ranges = append(policy.ranges, prefix)
	}
	return policy, nil
}

func parseHost(text string) (pattern, error) {
	name, wildcard := strings.CutPrefix(normalize(text), "*.")
	if _, err := netip.ParseAddr(name); err == nil {
		return pattern{}, fmt.Errorf("host %q is an address: give it as a range: %w", text, errdefs.ErrInvalidArgument)
	}
	if !isHostName(name) {
		return pattern{}, fmt.Errorf("host %q: must be a name such as example.org, or *.example.org for all names below it: %w", text,
			errdefs.ErrInvalidArgument)
	}
	return pattern{name, wildcard}, nil
}

func parseRange(text string) (netip.Prefix, error) {
	if address, err := netip.ParseAddr(text); err == nil && address.Zone() == "" {
		address = address.Unmap()
		return netip.PrefixFrom(address, address.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil || prefix.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("range %q: must be an address, or a network such as 192.0.2.0/24 or 2001:db8::/32: %w", text,
			errdefs.ErrInvalidArgument)
	}
	return prefix.Masked(), nil
}

// normalize makes equal what DNS takes for one name.
func normalize(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// isHostName tells whether a name is made of letters, digits, '-' and '_', in parts of the right length.
func isHostName(name string) bool {
	if name == "" || len(name) > maxName {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > maxLabel || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}

// AllowsName tells whether a host may be reached by this name. One with a part that has a dot in it, written "\.", is none of a host's: it
// would look as if it were below another name.
func (p Policy) AllowsName(name string) bool {
	name = normalize(name)
	if !isHostName(name) {
		return false
	}
	for _, host := range p.hosts {
		if host.wildcard && strings.HasSuffix(name, "."+host.name) || !host.wildcard && name == host.name {
			return true
		}
	}
	return false
}

// AllowsAddress tells whether an address may be reached however it was come by.
func (p Policy) AllowsAddress(address netip.Addr) bool {
	for _, prefix := range p.ranges {
		if prefix.Contains(address.Unmap()) {
			return true
		}
	}
	return false
}

// Ranges are the networks that may be reached. They are the caller's.
func (p Policy) Ranges() []netip.Prefix { return append([]netip.Prefix(nil), p.ranges...) }

// reserved are the networks that no name of the world has a reason to lead to: a host's own, private and link-local ones, among them
// those where clouds tell a machine its secrets, and what wraps IPv4 in IPv6.
var reserved = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.0.0.0/24"), netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("224.0.0.0/3"), // multicast, reserved, broadcast
	netip.MustParsePrefix("::/64"), netip.MustParsePrefix("::ffff:0:0/96"), netip.MustParsePrefix("64:ff9b::/96"),
	netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("2001::/32"),
	netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("fec0::/10"),
	netip.MustParsePrefix("ff00::/8"),
}

// AcceptsAnswer tells whether an allowed name may have this address: who owns the name could else open the way to what is near the host
// (DNS rebinding). A range that holds the address allows it.
func (p Policy) AcceptsAnswer(address netip.Addr) bool {
	if p.AllowsAddress(address) {
		return true
	}
	for _, prefix := range reserved {
		if prefix.Contains(address) {
			return false
		}
	}
	return address.IsValid()
}
