package network

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Lengths of headers, in bytes.
const (
	ip4HeaderLength = 20 // without options
	ip6HeaderLength = 40
	tcpHeaderLength = 20 // without options
	icmpLength      = 8
)

// packet is what is known of a packet of the guest's by its beginning.
type packet struct {
	head                []byte // the beginning
	source, destination netip.Addr
	protocol            byte   // of what is in it: of IPv6, by its first header
	later               bool   // it is a fragment, not the first
	header              []byte // of TCP, UDP or ICMP, and what follows, as far as it is known
	length              int    // of that, in bytes, by the packet's own word
}

// parsePacket reads the beginning of a packet. Not all of it may be there, and none of it be true.
func parsePacket(head []byte) (packet, bool) {
	if len(head) == 0 {
		return packet{}, false
	}
	switch version := head[0] >> 4; {
	case version == 4 && len(head) >= ip4HeaderLength:
		begin := int(head[0]&0xf) * 4
		if begin < ip4HeaderLength || begin > len(head) {
			return packet{}, false
		}
		const offset = 0x1fff // the bits of a fragment's place
		return packet{
			head: head, source: netip.AddrFrom4([4]byte(head[12:16])), destination: netip.AddrFrom4([4]byte(head[16:20])),
			protocol: head[9], later: binary.BigEndian.Uint16(head[6:])&offset != 0,
			header: head[begin:], length: int(binary.BigEndian.Uint16(head[2:])) - begin,
		}, true
	case version == 6 && len(head) >= ip6HeaderLength:
		return packet{
			head: head, source: netip.AddrFrom16([16]byte(head[8:24])), destination: netip.AddrFrom16([16]byte(head[24:40])),
			protocol: head[6], header: head[ip6HeaderLength:], length: int(binary.BigEndian.Uint16(head[4:])),
		}, true
	}
	return packet{}, false
}

// port is the destination's, of TCP and UDP; 0 if it is not known.
func (p packet) port() uint16 {
	const portsLength = 4
	if p.protocol != unix.IPPROTO_TCP && p.protocol != unix.IPPROTO_UDP || p.later || len(p.header) < portsLength {
		return 0
	}
	return binary.BigEndian.Uint16(p.header[2:])
}

// icmpProtocol is that of ICMP beside the packet's IP.
func (p packet) icmpProtocol() byte {
	if p.source.Is4() {
		return unix.IPPROTO_ICMP
	}
	return unix.IPPROTO_ICMPV6
}

// refusal is the packet by which the guest is told that its packet is refused: nil if it is not told, as nobody is told of what was
// itself an answer (RFC 1122, 3.2.2; RFC 4443, 2.4).
func (p packet) refusal() []byte {
	switch {
	case p.later:
		return nil
	case p.protocol == unix.IPPROTO_TCP && len(p.header) >= tcpHeaderLength:
		return p.reset()
	case p.protocol == p.icmpProtocol() && !p.isQuestion():
		return nil
	}
	return p.prohibited()
}

// isQuestion tells whether a packet of ICMP is no error and no answer.
func (p packet) isQuestion() bool {
	const echo4, echo6 = 8, 128
	return len(p.header) > 0 && (p.source.Is4() && p.header[0] == echo4 || p.source.Is6() && p.header[0] == echo6)
}

// reset is TCP's answer where nobody listens (RFC 9293, 3.10.7.1).
func (p packet) reset() []byte {
	const fin, syn, rst, ack = 1, 2, 4, 16
	flags := p.header[13]
	if flags&rst != 0 {
		return nil
	}
	segment := make([]byte, tcpHeaderLength)
	copy(segment, p.header[2:4])
	copy(segment[2:], p.header[:2])
	segment[12], segment[13] = tcpHeaderLength/4<<4, rst
	if flags&ack != 0 {
		copy(segment[4:], p.header[8:12])
	} else {
		data := max(0, p.length-int(p.header[12]>>4)*4)
		next := binary.BigEndian.Uint32(p.header[4:]) + uint32(data) + uint32(flags&fin) + uint32(flags&syn>>1)
		binary.BigEndian.PutUint32(segment[8:], next)
		segment[13] |= ack
	}
	const place = 16 // of the checksum
	return p.answer(unix.IPPROTO_TCP, segment, place)
}

// prohibited is ICMP's "administratively prohibited", with the beginning of the packet.
func (p packet) prohibited() []byte {
	const (
		unreachable4, prohibited4 = 3, 13 // RFC 792, RFC 1812
		unreachable6, prohibited6 = 1, 1  // RFC 4443
		place                     = 2     // of the checksum
	)
	message := append(make([]byte, icmpLength), p.head...)
	message[0], message[1] = unreachable4, prohibited4
	if p.source.Is6() {
		message[0], message[1] = unreachable6, prohibited6
	}
	return p.answer(p.icmpProtocol(), message, place)
}

// answer is a packet back to the sender, as from the one that it was for. place is where its payload has its checksum.
func (p packet) answer(protocol byte, payload []byte, place int) []byte {
	var pseudo []byte
	if protocol != unix.IPPROTO_ICMP {
		pseudo = append(p.destination.AsSlice(), p.source.AsSlice()...)
		pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(payload)))
		pseudo = append(pseudo, 0, 0, 0, protocol)
	}
	binary.BigEndian.PutUint16(payload[place:], internetChecksum(append(pseudo, payload...)))
	const hops = 64
	if p.source.Is6() {
		header := []byte{6 << 4, 0, 0, 0, 0, 0, protocol, hops}
		binary.BigEndian.PutUint16(header[4:], uint16(len(payload)))
		header = append(append(header, p.destination.AsSlice()...), p.source.AsSlice()...)
		return append(header, payload...)
	}
	header := []byte{4<<4 | ip4HeaderLength/4, 0, 0, 0, 0, 0, 0, 0, hops, protocol, 0, 0}
	binary.BigEndian.PutUint16(header[2:], uint16(ip4HeaderLength+len(payload)))
	header = append(append(header, p.destination.AsSlice()...), p.source.AsSlice()...)
	binary.BigEndian.PutUint16(header[10:], internetChecksum(header))
	return append(header, payload...)
}

// internetChecksum is that of RFC 1071.
func internetChecksum(data []byte) uint16 {
	var sum uint32
	for ; len(data) > 1; data = data[2:] {
		sum += uint32(binary.BigEndian.Uint16(data))
	}
	if len(data) == 1 {
		sum += uint32(data[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
