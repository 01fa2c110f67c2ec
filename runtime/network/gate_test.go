package network

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"
)

// The guest behind a gate has these addresses, and what is beyond it these.
var (
	own4, own6         = netip.MustParseAddr("10.9.0.2"), netip.MustParseAddr("fd09::2")
	admitted4          = netip.MustParseAddr("192.0.2.1")
	admitted6          = netip.MustParseAddr("2001:db8::1")
	ranged4, ranged6   = netip.MustParseAddr("198.51.100.77"), netip.MustParseAddr("2001:db8:1::77")
	other4, other6     = netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8:2::1")
	neighbor6          = netip.MustParseAddr("fd09::1")
	router6, allNodes6 = netip.MustParseAddr("fe80::1"), netip.MustParseAddr("ff02::1")
)

// gated attaches eth0 of a new namespace by a gate.
func gated(t *testing.T) (namespace *Namespace, card Card, tap, peer *os.File) {
	t.Helper()
	namespace = newNamespace(t)
	card = cardOf(t, namespace)
	card.Gate = &Gate{
		Ranges:    []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:1::/48")},
		Addresses: []netip.Prefix{netip.PrefixFrom(own4, 24), netip.PrefixFrom(own6, 64)},
	}
	tap, err := namespace.Attach(card)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tap.Close() })
	if err := namespace.Admit([]Card{card}, []netip.Addr{admitted4, admitted6, admitted4}); err != nil {
		t.Fatal(err)
	}
	return namespace, card, tap, openPeer(t, namespace)
}

// ethernet is a frame.
func ethernet(source []byte, etherType uint16, payload []byte) []byte {
	frame := append([]byte{2, 0, 0, 0, 0, 0xee}, source...)
	return append(binary.BigEndian.AppendUint16(frame, etherType), payload...)
}

// packet4 is a packet of IPv4; change may spoil its header.
func packet4(source, destination netip.Addr, protocol byte, payload []byte, change func(header []byte) []byte) []byte {
	header := make([]byte, 20)
	header[0], header[8], header[9] = 0x45, 64, protocol
	copy(header[12:], source.AsSlice())
	copy(header[16:], destination.AsSlice())
	if change != nil {
		header = change(header)
	}
	binary.BigEndian.PutUint16(header[2:], uint16(len(header)+len(payload)))
	header[10], header[11] = 0, 0
	binary.BigEndian.PutUint16(header[10:], internetChecksum(header))
	return append(header, summed(source, destination, protocol, payload)...)
}

// packet6 is a packet of IPv6, with extension headers if there are any in the payload.
func packet6(source, destination netip.Addr, next, hops byte, payload []byte) []byte {
	header := make([]byte, 8, 40+len(payload))
	header[0], header[6], header[7] = 0x60, next, hops
	binary.BigEndian.PutUint16(header[4:], uint16(len(payload)))
	return slices.Concat(header, source.AsSlice(), destination.AsSlice(), summed(source, destination, next, payload))
}

// summed is a payload with its checksum, if it is one of TCP, UDP or ICMP.
func summed(source, destination netip.Addr, protocol byte, payload []byte) []byte {
	place, ok := map[byte]int{1: 2, 6: 16, 17: 6, 58: 2}[protocol]
	if !ok || len(payload) < place+2 {
		return payload
	}
	var pseudo []byte
	if protocol != 1 {
		length := binary.BigEndian.AppendUint32(nil, uint32(len(payload)))
		pseudo = slices.Concat(source.AsSlice(), destination.AsSlice(), length, []byte{0, 0, 0, protocol})
	}
	payload = slices.Clone(payload)
	binary.BigEndian.PutUint16(payload[place:], 0)
	binary.BigEndian.PutUint16(payload[place:], internetChecksum(append(pseudo, payload...)))
	return payload
}

func tcpSegment(source, destination uint16, flags byte) []byte {
	segment := make([]byte, 20)
	binary.BigEndian.PutUint16(segment, source)
	binary.BigEndian.PutUint16(segment[2:], destination)
	segment[12], segment[13] = 5<<4, flags
	return segment
}

func udpDatagram(source, destination uint16) []byte {
	datagram := make([]byte, 12)
	binary.BigEndian.PutUint16(datagram, source)
	binary.BigEndian.PutUint16(datagram[2:], destination)
	datagram[5] = 12
	return datagram
}

// expectFrame reads up to the sentinel, which was sent after the frame, and tells whether the frame came.
func expectFrame(t *testing.T, to *os.File, header int, want, sentinel []byte) bool {
	t.Helper()
	to.SetReadDeadline(time.Now().Add(testTimeout))
	buffer := make([]byte, 2000)
	found := false
	for {
		n, err := to.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		frame := buffer[min(n, header):n]
		if bytes.Equal(frame, want) {
			found = true
		}
		if bytes.Equal(frame, sentinel) {
			return found
		}
	}
}

// guestFrames are frames that a guest sends, and whether they pass.
func guestFrames(mac []byte) map[string]struct {
	frame  []byte
	passes bool
} {
	type test = struct {
		frame  []byte
		passes bool
	}
	const (
		ip4, ip6, arp              = 0x0800, 0x86dd, 0x0806
		tcp, udp, icmp, icmp6, gre = 6, 17, 1, 58, 47
		hopByHop, routing, frag    = 0, 43, 44
	)
	syn := tcpSegment(40000, 443, tcpSYN)
	frame4 := func(destination netip.Addr, protocol byte, payload []byte) []byte {
		return ethernet(mac, ip4, packet4(own4, destination, protocol, payload, nil))
	}
	frame6 := func(destination netip.Addr, next byte, payload []byte) []byte {
		return ethernet(mac, ip6, packet6(own6, destination, next, 64, payload))
	}
	ndpWith := func(source, destination netip.Addr, kind, hops byte, options int) []byte {
		return ethernet(mac, ip6, packet6(source, destination, icmp6, hops, append([]byte{kind, 0, 0, 0}, make([]byte, 20+options)...)))
	}
	ndp := func(source, destination netip.Addr, kind, hops byte) []byte {
		return ndpWith(source, destination, kind, hops, 0)
	}
	groups := func(source, destination netip.Addr, extensions []byte) []byte {
		return ethernet(mac, ip6, packet6(source, destination, hopByHop, 1, extensions))
	}
	own6Link := linkLocalOf(mac)
	arpRequest := func(sender []byte, address netip.Addr) []byte {
		return ethernet(mac, arp, slices.Concat([]byte{0, 1, 8, 0, 6, 4, 0, 1}, sender, address.AsSlice(), make([]byte, 6), other4.AsSlice()))
	}
	fragment4 := func(destination netip.Addr, offset byte) []byte {
		return ethernet(mac, ip4, packet4(own4, destination, udp, udpDatagram(1, 2), func(h []byte) []byte { h[7] = offset; return h }))
	}
	extension := func(next byte, kind byte, rest []byte) []byte {
		return append([]byte{next, 0, kind, 0, 0, 0, 0, 0}, rest...)
	}
	fragment := func(next byte, offset uint16, rest []byte) []byte {
		header := binary.BigEndian.AppendUint16([]byte{next, 0}, offset<<3|1)
		return slices.Concat(header, []byte{0, 0, 0, 1}, rest)
	}
	stranger := []byte{2, 0, 0, 0, 0, 0x66}
	vlan := ethernet(mac, 0x8100, append([]byte{0, 7, 8, 0}, packet4(own4, admitted4, tcp, syn, nil)...))
	return map[string]test{
		"admitted":                  {frame4(admitted4, tcp, syn), true},
		"admitted, UDP":             {frame4(admitted4, udp, udpDatagram(5, 53)), true},
		"admitted, echo":            {frame4(admitted4, icmp, []byte{8, 0, 0, 0, 0, 0, 0, 0}), true},
		"admitted, later fragment":  {fragment4(admitted4, 100), true},
		"admitted, IPv6":            {frame6(admitted6, tcp, syn), true},
		"admitted, IPv6 fragment":   {frame6(admitted6, frag, fragment(udp, 31, udpDatagram(1, 2))), true},
		"admitted, first fragment":  {frame6(admitted6, frag, fragment(tcp, 0, syn)), true},
		"in a range":                {frame4(ranged4, tcp, syn), true},
		"in a range, IPv6":          {frame6(ranged6, tcp, syn), true},
		"ARP":                       {arpRequest(mac, own4), true},
		"ARP, is it taken":          {arpRequest(mac, netip.IPv4Unspecified()), true},
		"neighbour":                 {ndp(own6, neighbor6, 135, 255), true},
		"neighbour, group":          {ndp(own6, allNodes6, 136, 255), true},
		"neighbour, is it taken":    {ndp(netip.IPv6Unspecified(), allNodes6, 135, 255), true},
		"neighbour, options":        {ndpWith(own6, neighbor6, 135, 255, 64), true},
		"neighbour, of the link":    {ndp(own6Link, router6, 136, 255), true},
		"router":                    {ndp(own6Link, allNodes6, 133, 255), true},
		"word of groups":            {groups(own6Link, allNodes6, extension(icmp6, 5, make143(0))), true},
		"word of groups, no name":   {groups(netip.IPv6Unspecified(), allNodes6, extension(icmp6, 5, make143(0))), true},
		"word of many groups":       {groups(own6Link, allNodes6, extension(icmp6, 5, make143(22))), true},
		"other":                     {frame4(other4, tcp, syn), false},
		"other, UDP":                {frame4(other4, udp, udpDatagram(5, 53)), false},
		"other, echo":               {frame4(other4, icmp, []byte{8, 0, 0, 0, 0, 0, 0, 0}), false},
		"other, echo's answer":      {frame4(other4, icmp, []byte{0, 0, 0, 0, 0, 0, 0, 0}), false},
		"other, no beginning":       {frame4(other4, tcp, tcpSegment(40000, 443, tcpACK)), false},
		"other, later fragment":     {fragment4(other4, 100), false},
		"other, IPv6":               {frame6(other6, tcp, syn), false},
		"other, behind a fragment":  {frame6(other6, frag, fragment(tcp, 0, syn)), false},
		"other, behind routing":     {frame6(other6, routing, extension(tcp, 0, syn)), false},
		"broadcast":                 {frame4(netip.AddrFrom4([4]byte{255, 255, 255, 255}), udp, udpDatagram(68, 67)), false},
		"group":                     {frame4(netip.MustParseAddr("224.0.0.251"), udp, udpDatagram(5353, 5353)), false},
		"group, IPv6":               {frame6(netip.MustParseAddr("ff02::fb"), udp, udpDatagram(5353, 5353)), false},
		"not the card's address":    {ethernet(mac, ip4, packet4(other4, admitted4, tcp, syn, nil)), false},
		"not the card's, IPv6":      {ethernet(mac, ip6, packet6(other6, admitted6, tcp, 64, syn)), false},
		"not the card":              {ethernet(stranger, ip4, packet4(own4, admitted4, tcp, syn, nil)), false},
		"another protocol":          {frame4(admitted4, gre, syn), false},
		"options":                   {ethernet(mac, ip4, packet4(own4, admitted4, tcp, syn, sourceRoute)), false},
		"routed by the sender":      {frame6(admitted6, routing, extension(tcp, 0, syn)), false},
		"hop by hop":                {frame6(admitted6, hopByHop, extension(tcp, 1, syn)), false},
		"ARP for another card":      {arpRequest(stranger, own4), false},
		"ARP for another address":   {arpRequest(mac, other4), false},
		"neighbour far away":        {ndp(own6, other6, 135, 255), false},
		"neighbour behind a router": {ndp(own6, neighbor6, 135, 64), false},
		"neighbour of another":      {ndp(neighbor6, allNodes6, 136, 255), false},
		"neighbour of another link": {ndp(router6, allNodes6, 136, 255), false},
		"neighbour, long":           {ndpWith(own6, neighbor6, 135, 255, 65), false},
		"neighbour, more behind":    {append(ndp(own6, neighbor6, 135, 255), make([]byte, 65)...), false},
		"router of another":         {ndp(router6, allNodes6, 133, 255), false},
		"word of groups far away":   {groups(own6, other6, extension(icmp6, 5, make143(0))), false},
		"word of another's groups":  {groups(router6, allNodes6, extension(icmp6, 5, make143(0))), false},
		"word of groups, long":      {groups(own6Link, allNodes6, extension(icmp6, 5, make143(23))), false},
		"word of groups, routed":    {groups(own6Link, allNodes6, extension(routing, 5, extension(icmp6, 0, make143(0)))), false},
		"fragment, routed":          {frame6(admitted6, frag, fragment(routing, 0, extension(tcp, 0, syn))), false},
		"later fragment, routed":    {frame6(admitted6, frag, fragment(routing, 31, syn)), false},
		"fragment of a fragment":    {frame6(admitted6, frag, fragment(frag, 0, fragment(routing, 0, extension(tcp, 0, syn)))), false},
		"fragment, hop by hop":      {frame6(ranged6, frag, fragment(hopByHop, 0, extension(tcp, 1, syn))), false},
		"fragment without header":   {frame6(admitted6, frag, nil), false},
		"VLAN":                      {vlan, false},
		"PPPoE":                     {ethernet(mac, 0x8864, make([]byte, 40)), false},
		"802.3":                     {ethernet(mac, 40, make([]byte, 40)), false},
		"half a header":             {ethernet(mac, ip4, packet4(own4, admitted4, tcp, nil, nil)[:12]), false},
	}
}

// make143 is a report of so many groups (MLDv2).
func make143(groups int) []byte {
	report := append([]byte{143}, make([]byte, 7+20*groups)...)
	report[7] = byte(groups)
	return report
}

// sourceRoute adds the option by which IPv4 is to be led elsewhere.
func sourceRoute(header []byte) []byte {
	header[0] = 0x47
	return append(header, slices.Concat([]byte{131, 7, 4}, other4.AsSlice(), []byte{0})...)
}

// TestGate sends what a guest may send, and what it may not.
func TestGate(t *testing.T) {
	_, card, tap, peer := gated(t)
	mac := []byte(card.MAC)
	write := func(frame []byte) {
		t.Helper()
		if _, err := tap.Write(append(make([]byte, vnetHeader), frame...)); err != nil {
			t.Fatal(err)
		}
	}
	var count uint16
	for name, test := range guestFrames(mac) {
		count++
		sentinel := ethernet(mac, 0x0800, packet4(own4, admitted4, 17, udpDatagram(count, 1), nil))
		write(test.frame)
		write(sentinel)
		if passes := expectFrame(t, peer, 0, test.frame, sentinel); passes != test.passes {
			t.Errorf("%s: passes: %v", name, passes)
		}
	}
}

// TestGateAnswers lets the guest answer whoever spoke to it, and say nothing else to him.
func TestGateAnswers(t *testing.T) {
	_, card, tap, peer := gated(t)
	mac := []byte(card.MAC)
	frame4 := func(from, to netip.Addr, protocol byte, payload []byte) []byte {
		return ethernet(mac, 0x0800, packet4(from, to, protocol, payload, nil))
	}
	frame6 := func(from, to netip.Addr, protocol byte, payload []byte) []byte {
		return ethernet(mac, 0x86dd, packet6(from, to, protocol, 64, payload))
	}
	echo := func(kind byte) []byte { return []byte{kind, 0, 0, 0, 0, 0, 0, 0} }
	for i, frame := range [][]byte{
		frame4(other4, own4, 6, tcpSegment(5000, 80, tcpSYN)), frame6(other6, own6, 6, tcpSegment(5000, 80, tcpSYN)),
		frame4(other4, own4, 17, udpDatagram(5001, 81)), frame6(other6, own6, 17, udpDatagram(5001, 81)),
		frame4(other4, own4, 1, echo(8)), frame6(other6, own6, 58, echo(128)),
	} {
		if _, err := peer.Write(frame); err != nil {
			t.Fatal(err)
		}
		sentinel := frame4(other4, own4, 1, []byte{8, 0, 0, 0, 0, 0, 0, byte(i + 1)})
		if _, err := peer.Write(sentinel); err != nil {
			t.Fatal(err)
		}
		if !expectFrame(t, tap, vnetHeader, frame, sentinel) {
			t.Errorf("frame %d did not come to the guest", i)
		}
	}
	answer := byte(tcpSYN | tcpACK)
	for i, test := range []struct {
		name   string
		frame  []byte
		passes bool
	}{
		{"TCP", frame4(own4, other4, 6, tcpSegment(80, 5000, answer)), true},
		{"TCP, IPv6", frame6(own6, other6, 6, tcpSegment(80, 5000, answer)), true},
		{"UDP", frame4(own4, other4, 17, udpDatagram(81, 5001)), true},
		{"UDP, IPv6", frame6(own6, other6, 17, udpDatagram(81, 5001)), true},
		{"echo", frame4(own4, other4, 1, echo(0)), true},
		{"echo, IPv6", frame6(own6, other6, 58, echo(129)), true},
		{"a connection back", frame4(own4, other4, 6, tcpSegment(80, 5000, tcpSYN)), false},
		{"a connection back, IPv6", frame6(own6, other6, 6, tcpSegment(80, 5000, tcpSYN)), false},
		{"another port of his", frame4(own4, other4, 6, tcpSegment(80, 5009, answer)), false},
		{"another port", frame4(own4, other4, 6, tcpSegment(82, 5000, answer)), false},
		{"UDP, another port", frame4(own4, other4, 17, udpDatagram(81, 53)), false},
		{"UDP, IPv6, another port", frame6(own6, other6, 17, udpDatagram(81, 53)), false},
		{"question for an echo", frame4(own4, other4, 1, echo(8)), false},
	} {
		sentinel := frame4(own4, admitted4, 17, udpDatagram(uint16(i+1), 1))
		for _, frame := range [][]byte{test.frame, sentinel} {
			if _, err := tap.Write(append(make([]byte, vnetHeader), frame...)); err != nil {
				t.Fatal(err)
			}
		}
		if passes := expectFrame(t, peer, 0, test.frame, sentinel); passes != test.passes {
			t.Errorf("%s: passes: %v", test.name, passes)
		}
	}
}

// TestExpel takes an address back.
func TestExpel(t *testing.T) {
	namespace, card, tap, peer := gated(t)
	if err := namespace.Expel([]Card{card}, []netip.Addr{admitted4}); err != nil {
		t.Fatal(err)
	}
	frame := ethernet(card.MAC, 0x0800, packet4(own4, admitted4, 6, tcpSegment(1, 2, tcpSYN), nil))
	sentinel := ethernet(card.MAC, 0x86dd, packet6(own6, admitted6, 6, 64, tcpSegment(1, 2, tcpSYN)))
	for _, frame := range [][]byte{frame, sentinel} {
		if _, err := tap.Write(append(make([]byte, vnetHeader), frame...)); err != nil {
			t.Fatal(err)
		}
	}
	if expectFrame(t, peer, 0, frame, sentinel) {
		t.Error("it still passes")
	}
	if err := errors.Join(namespace.Detach(card), namespace.Detach(card), tap.Close()); err != nil {
		t.Fatal(err)
	}
	expectClean(t, namespace, "lo", "peer", "eth0")
	if err := namespace.Admit([]Card{card}, []netip.Addr{admitted4}); err == nil {
		t.Error("the gate is left")
	}
}

func TestLinkLocalOf(t *testing.T) {
	for mac, want := range map[string]string{"02:00:00:00:00:01": "fe80::ff:fe00:1", "52:54:00:12:34:56": "fe80::5054:ff:fe12:3456"} {
		address, err := net.ParseMAC(mac)
		if err != nil {
			t.Fatal(err)
		}
		if got := linkLocalOf(address); got.String() != want {
			t.Errorf("%s: %s", mac, got)
		}
	}
}

func TestProbeGate(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	if err := ProbeGate(); err != nil {
		t.Error(err)
	}
}
