package network

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// rule is what the packet filter does: it goes on to the next part as long as each holds.
type rule []expr.Any

// The registers of the packet filter, of four bytes each. A key of several parts lies in as many as it needs, from the first on.
const firstRegister = unix.NFT_REG32_00

// of joins the parts of a rule.
func of(parts ...rule) rule {
	var all rule
	for _, part := range parts {
		all = append(all, part...)
	}
	return all
}

// field is where a packet has something: from the beginning of its Ethernet, network or transport header. One that the packet has not,
// as all but the first fragment have no transport header, ends the rule.
type field struct {
	base           expr.PayloadBase
	offset, length uint32 // bytes
}

var (
	ethernetSource = field{expr.PayloadBaseLLHeader, 6, 6}
	ethernetType   = field{expr.PayloadBaseLLHeader, 12, 2} // that of a VLAN's tag, if there is one

	arpKind           = field{expr.PayloadBaseNetworkHeader, 0, 6} // of hardware and of protocol, and the lengths of their addresses
	arpSender         = field{expr.PayloadBaseNetworkHeader, 8, 6}
	arpSenderProtocol = field{expr.PayloadBaseNetworkHeader, 14, 4}

	ip4Length      = field{expr.PayloadBaseNetworkHeader, 0, 1} // with the version
	ip4Protocol    = field{expr.PayloadBaseNetworkHeader, 9, 1}
	ip4Source      = field{expr.PayloadBaseNetworkHeader, 12, 4}
	ip4Destination = field{expr.PayloadBaseNetworkHeader, 16, 4}

	ip6NextHeader  = field{expr.PayloadBaseNetworkHeader, 6, 1}
	ip6HopLimit    = field{expr.PayloadBaseNetworkHeader, 7, 1}
	ip6Source      = field{expr.PayloadBaseNetworkHeader, 8, 16}
	ip6Destination = field{expr.PayloadBaseNetworkHeader, 24, 16}
	ip6SecondNext  = field{expr.PayloadBaseNetworkHeader, 40, 1} // what follows the extension header that is the first

	sourcePort      = field{expr.PayloadBaseTransportHeader, 0, 2}
	destinationPort = field{expr.PayloadBaseTransportHeader, 2, 2}
	tcpFlags        = field{expr.PayloadBaseTransportHeader, 13, 1}
	icmpType        = field{expr.PayloadBaseTransportHeader, 0, 1}
)

func (f field) load(register uint32) rule {
	return rule{&expr.Payload{DestRegister: register, Base: f.base, Offset: f.offset, Len: f.length}}
}

// is holds if the field has this value.
func (f field) is(value ...byte) rule {
	return append(f.load(firstRegister), &expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: value})
}

// differs holds if the field has another value.
func (f field) differs(value ...byte) rule {
	return append(f.load(firstRegister), &expr.Cmp{Op: expr.CmpOpNeq, Register: firstRegister, Data: value})
}

// masked holds if the bits of the field that the mask has compare so with the value.
func (f field) masked(mask []byte, compare expr.CmpOp, value []byte) rule {
	return append(f.load(firstRegister),
		&expr.Bitwise{SourceRegister: firstRegister, DestRegister: firstRegister, Len: f.length, Mask: mask, Xor: make([]byte, f.length)},
		&expr.Cmp{Op: compare, Register: firstRegister, Data: value})
}

// within holds if the field, an address of the prefix's family, is in the network.
func (f field) within(prefix netip.Prefix) rule {
	mask := make([]byte, f.length)
	for bit := range prefix.Bits() {
		mask[bit/8] |= 0x80 >> (bit % 8)
	}
	return f.masked(mask, expr.CmpOpEq, prefix.Masked().Addr().AsSlice())
}

// isIn holds if the fields, one after the other, are in a set.
func isIn(set string, fields ...field) rule {
	return append(key(fields), &expr.Lookup{SourceRegister: firstRegister, SetName: set})
}

// isNotIn holds if the fields are not in a set.
func isNotIn(set string, fields ...field) rule {
	return append(key(fields), &expr.Lookup{SourceRegister: firstRegister, SetName: set, Invert: true})
}

// note puts the fields into a set, or begins their time there again. It holds if there was room.
func note(set string, fields ...field) rule {
	return append(key(fields), &expr.Dynset{SrcRegKey: firstRegister, SetName: set, Operation: unix.NFT_DYNSET_OP_UPDATE})
}

// key loads the fields one after the other, each into registers of its own.
func key(fields []field) rule {
	const register = 4 // bytes
	var loads rule
	next := uint32(firstRegister)
	for _, f := range fields {
		loads = append(loads, f.load(next)...)
		next += (f.length + register - 1) / register
	}
	return loads
}

// transport holds if this protocol is what is in the packet, whatever headers IPv6 has in front of it.
func transport(protocol byte) rule {
	return rule{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: firstRegister},
		&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: []byte{protocol}},
	}
}

// longerThan holds if a packet, from its network header to the end of the frame, has more bytes.
func longerThan(length uint32) rule { return compareLength(expr.CmpOpGt, length) }

// noLonger is the opposite of longerThan.
func noLonger(length uint32) rule { return compareLength(expr.CmpOpLte, length) }

func compareLength(compare expr.CmpOp, length uint32) rule {
	const size = 4 // bytes of it
	return rule{
		&expr.Meta{Key: expr.MetaKeyLEN, Register: firstRegister},
		// Registers are compared byte by byte.
		&expr.Byteorder{SourceRegister: firstRegister, DestRegister: firstRegister, Op: expr.ByteorderHton, Len: size, Size: size},
		&expr.Cmp{Op: compare, Register: firstRegister, Data: binary.BigEndian.AppendUint32(nil, length)},
	}
}

// jump goes through another chain, and comes back if nothing there was the end.
func jump(chain string) rule { return rule{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}} }

// end goes on in another chain, and does not come back.
func end(chain string) rule { return rule{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}} }

var drop = rule{&expr.Verdict{Kind: expr.VerdictDrop}}

// sendOut sends the packet out at an interface, instead of to the namespace's kernel. (The library has no fwd, which is the two in one.)
func sendOut(index int) rule {
	return append(rule{
		&expr.Immediate{Register: firstRegister, Data: binary.NativeEndian.AppendUint32(nil, uint32(index))},
		&expr.Dup{RegDev: firstRegister, IsRegDevSet: true},
	}, drop...)
}

// elements are a set's members, which have one part.
func elements(members ...[]byte) []nftables.SetElement {
	var list []nftables.SetElement
	for _, member := range members {
		list = append(list, nftables.SetElement{Key: member})
	}
	return list
}
