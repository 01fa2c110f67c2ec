package network

import (
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Gate stands between a card's tap and its interface, in place of the redirection, where not everything is to be reached. From the guest
// it lets through
//
//   - what is for an address of a range, or for one that was admitted (see Namespace.Admit);
//   - answers: TCP and UDP to those who have spoken to the guest, from and to the same ports, but no new connections; and echoes;
//   - what Ethernet needs: ARP, IPv6's search for neighbours and routers, and its word to the switch which groups it is in,
//     as long as they are short.
//
// All of it must come from the card's own addresses, be plain Ethernet, and have no options of IPv4 or extension headers of IPv6 other
// than one of a fragment, with none behind it: they could lead it elsewhere. Everything else is refused, and told to who listens (see
// Namespace.Refusals), who answers the guest at once, with TCP's reset or ICMP's "prohibited". What is for the guest passes.
//
// The rules do the passing on, in a table of the packet filter for each card: without them nothing passes.
type Gate struct {
	Ranges    []netip.Prefix `json:"ranges,omitempty"`    // what can be reached in any case
	Addresses []netip.Prefix `json:"addresses,omitempty"` // the card's own, with the networks that they are in
}

// MaxAdmitted is how many addresses, of each family, can be admitted at the same time.
const MaxAdmitted = 4096

const (
	// maxSpeakers is how many of those who have spoken to the guest are known, for each protocol. Those beyond get no answers.
	maxSpeakers = 16384
	// tcpSilence is how long a connection to an address that is admitted no more may be idle: longer than Linux waits until it asks
	// whether the other side is still there (net.ipv4.tcp_keepalive_time, 2 hours).
	tcpSilence = 2*time.Hour + 5*time.Minute
	// udpSilence is the same for UDP, as Linux takes it for streams (net.netfilter.nf_conntrack_udp_timeout_stream).
	udpSilence = 2 * time.Minute
	// echoTime is how long an echo may take.
	echoTime = 10 * time.Second
)

// How long a packet may be that IPv6 needs on Ethernet, in bytes with the header: they are for neighbours, and tell them nothing else.
const (
	// maxNDP is the header, the longest message without its options (RFC 4861, 4.4: 24 bytes), and 64 for these: Linux sends a hardware
	// address and a nonce, of 8 bytes each.
	maxNDP = 40 + 24 + 64
	// maxMLD has room for 22 groups (RFC 3810, 5.2: 20 bytes each). Every address of the card is in one.
	maxMLD = 512
)

const (
	// refusalLimit is how many refusals are told in a second, of each card; more are refused and not told.
	refusalLimit = 1000
	// refusalBytes of a refused packet are told: the longest header of IPv4 and the one of TCP, or those of IPv6 and what is in its answer.
	refusalBytes = 128
)

// gateChain is a chain of rules. One with an interface begins with what arrives there, and drops what comes to its end.
type gateChain struct {
	name  string
	at    string // the interface's name
	rules []rule
}

// gateSet is a set of the packet filter.
type gateSet struct {
	name    string
	keys    []nftables.SetDatatype // the parts of a member
	members [][]byte
	size    int           // how many members; 0: those
	timeout time.Duration // not 0: packets are its members, so long
}

// gatePlan is a table of the packet filter.
type gatePlan struct {
	sets   []gateSet
	chains []gateChain
}

// gateFamily is what differs between the two protocols.
type gateFamily struct {
	suffix              string // of names
	ethernetType        []byte
	address             nftables.SetDatatype
	source, destination field
	icmp                byte
	echo, echoReply     byte
	multicast           netip.Prefix
}

var (
	gate4 = gateFamily{
		"4", []byte{0x08, 0x00}, nftables.TypeIPAddr, ip4Source, ip4Destination, unix.IPPROTO_ICMP, 8, 0,
		netip.MustParsePrefix("224.0.0.0/4"),
	}
	gate6 = gateFamily{
		"6", []byte{0x86, 0xdd}, nftables.TypeIP6Addr, ip6Source, ip6Destination, unix.IPPROTO_ICMPV6, 128, 129,
		netip.MustParsePrefix("ff00::/8"),
	}
)

var (
	arpType   = []byte{0x08, 0x06}
	arpOfIP   = []byte{0, 1, 8, 0, 6, 4} // Ethernet's and IPv4's addresses
	broadcast = []byte{255, 255, 255, 255}
	linkLocal = netip.MustParsePrefix("fe80::/10")
	onLink6   = netip.MustParsePrefix("ff02::/16") // groups of the link
)

// Flags of TCP: RFC 9293, 3.1.
const (
	tcpSYN = 0x02
	tcpACK = 0x10
)

// The chains of a gate.
const (
	chainGuest  = "guest"  // from the guest
	chainWorld  = "world"  // for the guest
	chainPass   = "pass"   // out at the interface
	chainRefuse = "refuse" // back to the guest
	chainNDP    = "ndp"
	chainPlain6 = "plain6" // what has no headers that could lead it elsewhere
)

// plan plans the table of a card whose interface is up.
func (g Gate) plan(card Card, tapIndex int) gatePlan {
	mac := []byte(card.MAC)
	guest := gateChain{name: chainGuest, at: card.tap(), rules: []rule{
		of(ethernetSource.is(mac...), ethernetType.is(arpType...), jump("arp")),
		of(ethernetSource.is(mac...), ethernetType.is(gate4.ethernetType...), jump("ip4")),
		of(ethernetSource.is(mac...), ethernetType.is(gate6.ethernetType...), jump("ip6")),
	}}
	arp := gateChain{name: "arp", rules: []rule{
		of(arpKind.is(arpOfIP...), arpSender.is(mac...), isIn("own4", arpSenderProtocol), end(chainPass)),
		of(arpKind.is(arpOfIP...), arpSender.is(mac...), arpSenderProtocol.is(0, 0, 0, 0), end(chainPass)), // is the address taken?
	}}
	const plainHeader = 0x45 // version 4, 20 bytes
	ip4 := gateChain{name: "ip4", rules: append([]rule{
		of(ip4Length.masked([]byte{0xff}, expr.CmpOpNeq, []byte{plainHeader}), end(chainRefuse)),
		of(isNotIn("protocols4", ip4Protocol), end(chainRefuse)),
	}, g.common(gate4)...)}
	ip4.rules = append(ip4.rules, of(ip4Destination.is(broadcast...), drop), end(chainRefuse))
	ip6 := gateChain{name: "ip6", rules: []rule{
		// Word of groups has a header for routers in front.
		of(ip6NextHeader.is(unix.IPPROTO_HOPOPTS), ip6SecondNext.is(unix.IPPROTO_ICMPV6), isIn("mld", icmpType), isIn("link6", ip6Source),
			ip6Destination.within(onLink6), noLonger(maxMLD), end(chainPass)),
		of(ip6NextHeader.is(unix.IPPROTO_ICMPV6), isIn("ndp", icmpType), end(chainNDP)),
		of(isIn("protocols6", ip6NextHeader), end(chainPlain6)),
		of(ip6NextHeader.is(unix.IPPROTO_FRAGMENT), isIn("protocols6", ip6SecondNext), end(chainPlain6)),
		end(chainRefuse),
	}}
	plain6 := gateChain{name: chainPlain6, rules: append(g.common(gate6), end(chainRefuse))}
	return gatePlan{
		sets: slices.Concat(g.sets(gate4), g.sets(gate6), linkSets(g.Addresses, card.MAC)),
		chains: []gateChain{
			guest, arp, ip4, ip6, plain6, g.ndp(), world(card, tapIndex), refuse(),
			{name: chainPass, rules: []rule{sendOut(card.Index)}},
		},
	}
}

// common are the rules that the protocols have in common; what comes to their end is refused.
func (g Gate) common(family gateFamily) []rule {
	named := func(name string) string { return name + family.suffix }
	rules := []rule{
		of(isNotIn(named("own"), family.source), end(chainRefuse)),
		of(isIn(named("admitted"), family.destination), end(chainPass)),
	}
	for _, prefix := range g.Ranges {
		if prefix.Addr().Is4() == (family.suffix == gate4.suffix) {
			rules = append(rules, of(family.destination.within(prefix), end(chainPass)))
		}
	}
	speaker := []field{family.destination, destinationPort, sourcePort}
	begins := tcpFlags.masked([]byte{tcpSYN | tcpACK}, expr.CmpOpNeq, []byte{tcpSYN})
	return append(rules,
		of(transport(unix.IPPROTO_TCP), begins, isIn(named("tcp"), speaker...), end(chainPass)),
		of(transport(unix.IPPROTO_UDP), isIn(named("udp"), speaker...), end(chainPass)),
		of(transport(family.icmp), icmpType.is(family.echoReply), isIn(named("echo"), family.destination), end(chainPass)),
		of(family.destination.within(family.multicast), drop),
	)
}

// ndp lets neighbour discovery pass that no router hands on (RFC 4861, 7.1).
func (g Gate) ndp() gateChain {
	rules := []rule{
		of(isNotIn("link6", ip6Source), end(chainRefuse)),
		of(longerThan(maxNDP), end(chainRefuse)),
		of(ip6HopLimit.differs(255), end(chainRefuse)),
		of(ip6Destination.within(onLink6), end(chainPass)),
		of(ip6Destination.within(linkLocal), end(chainPass)),
	}
	for _, prefix := range g.Addresses {
		if prefix.Addr().Is6() {
			rules = append(rules, of(ip6Destination.within(prefix), end(chainPass)))
		}
	}
	return gateChain{name: chainNDP, rules: append(rules, end(chainRefuse))}
}

// world lets everything pass, and notes who speaks to the guest.
func world(card Card, tapIndex int) gateChain {
	var rules []rule
	for _, family := range []gateFamily{gate4, gate6} {
		is := ethernetType.is(family.ethernetType...)
		speaker := []field{family.source, sourcePort, destinationPort}
		rules = append(rules,
			of(is, transport(unix.IPPROTO_TCP), note("tcp"+family.suffix, speaker...)),
			of(is, transport(unix.IPPROTO_UDP), note("udp"+family.suffix, speaker...)),
			of(is, transport(family.icmp), icmpType.is(family.echo), note("echo"+family.suffix, family.source)),
		)
	}
	return gateChain{name: chainWorld, at: card.Interface, rules: append(rules, sendOut(tapIndex))}
}

// refuse tells, and drops. See Refusals.
func refuse() gateChain {
	return gateChain{name: chainRefuse, rules: []rule{
		{
			&expr.Limit{Type: expr.LimitTypePkts, Rate: refusalLimit, Unit: expr.LimitTimeSecond, Burst: refusalLimit},
			&expr.Log{Key: 1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_SNAPLEN, Group: refusalGroup, Snaplen: refusalBytes},
		},
		drop,
	}}
}

func (g Gate) sets(family gateFamily) []gateSet {
	named := func(name string) string { return name + family.suffix }
	own := gateSet{name: named("own"), keys: []nftables.SetDatatype{family.address}}
	for _, prefix := range g.Addresses {
		if prefix.Addr().Is4() == (family.suffix == gate4.suffix) {
			own.members = append(own.members, prefix.Addr().AsSlice())
		}
	}
	protocols := gateSet{name: named("protocols"), keys: []nftables.SetDatatype{nftables.TypeInetProto}, members: [][]byte{
		{unix.IPPROTO_TCP}, {unix.IPPROTO_UDP}, {family.icmp},
	}}
	speaker := []nftables.SetDatatype{family.address, nftables.TypeInetService, nftables.TypeInetService}
	return []gateSet{
		own, protocols,
		{name: named("admitted"), keys: own.keys, size: MaxAdmitted},
		{name: named("tcp"), keys: speaker, size: maxSpeakers, timeout: tcpSilence},
		{name: named("udp"), keys: speaker, size: maxSpeakers, timeout: udpSilence},
		{name: named("echo"), keys: own.keys, size: maxSpeakers, timeout: echoTime},
	}
}

// linkSets are those of what IPv6 needs on Ethernet.
func linkSets(own []netip.Prefix, mac net.HardwareAddr) []gateSet {
	const (
		routerSolicitation, neighborSolicitation, neighborAdvertisement = 133, 135, 136 // RFC 4861
		mldReport, mldDone, mldReport2                                  = 131, 132, 143 // RFC 2710, 3810
	)
	sources := [][]byte{
		netip.IPv6Unspecified().AsSlice(), // who has no address yet: is it taken?
		linkLocalOf(mac).AsSlice(),
	}
	for _, prefix := range own {
		if prefix.Addr().Is6() {
			sources = append(sources, prefix.Addr().AsSlice())
		}
	}
	kinds := []nftables.SetDatatype{nftables.TypeICMP6Type}
	return []gateSet{
		{name: "link6", keys: []nftables.SetDatatype{gate6.address}, members: sources},
		{name: "ndp", keys: kinds, members: [][]byte{{routerSolicitation}, {neighborSolicitation}, {neighborAdvertisement}}},
		{name: "mld", keys: kinds, members: [][]byte{{mldReport}, {mldDone}, {mldReport2}}},
	}
}

// linkLocalOf is the address that the guest's kernel makes of the card's hardware address: RFC 4291, appendix A.
func linkLocalOf(mac net.HardwareAddr) netip.Addr {
	address := [16]byte{0: 0xfe, 1: 0x80, 11: 0xff, 12: 0xfe}
	copy(address[8:], mac[:3])
	copy(address[13:], mac[3:])
	address[8] ^= 0x02
	return netip.AddrFrom16(address)
}
