package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// family is one of the two protocols as the kernel's interfaces name it.
type family struct {
	network     string // of net.Listen
	loopback    netip.Prefix
	protocol    byte   // of the packet filter
	destination uint32 // where a header has it, bytes
	level       int    // of socket options
	freebind    int
}

var families = []family{
	{"tcp4", netip.MustParsePrefix("127.0.0.1/8"), unix.NFPROTO_IPV4, 16, unix.SOL_IP, unix.IP_FREEBIND},
	{"tcp6", netip.MustParsePrefix("::1/128"), unix.NFPROTO_IPV6, 24, unix.SOL_IPV6, unix.IPV6_FREEBIND},
}

// CatchLoopback has every TCP connection that is made in the namespace to a loopback address come to the listeners, which are the
// caller's; OriginalPort tells which port it was for. ReleaseLoopback takes it back. On error nothing is left.
// ErrNotImplemented: the kernel has no redirection.
func (n *Namespace) CatchLoopback() (listeners []net.Listener, err error) {
	err = n.do(func() error {
		for _, family := range families {
			listener, err := family.listen()
			if errors.Is(err, unix.EAFNOSUPPORT) { // a kernel without IPv6
				continue
			}
			if err != nil {
				return err
			}
			listeners = append(listeners, listener)
		}
		return catch(listeners)
	})
	if err != nil {
		for _, listener := range listeners {
			err = errors.Join(err, listener.Close())
		}
		return nil, fmt.Errorf("catch connections to the namespace's loopback: %w", err)
	}
	return listeners, nil
}

// listen listens on a free port of the loopback address, even if that comes only later, with the interface.
func (f family) listen() (net.Listener, error) {
	config := net.ListenConfig{Control: func(_, _ string, conn syscall.RawConn) error {
		var option error
		err := conn.Control(func(fd uintptr) { option = unix.SetsockoptInt(int(fd), f.level, f.freebind, 1) })
		return errors.Join(err, option)
	}}
	config.SetMultipathTCP(false) // one of its connections would not tell its original port
	return config.Listen(context.Background(), f.network, net.JoinHostPort(f.loopback.Addr().String(), "0"))
}

// loopbackTable is what the packet filter of a namespace has of limpet.
func loopbackTable() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: "limpet"}
}

// catch makes the rules, in place of those that a killed shim may have left. To take rules away costs ten milliseconds of waiting for
// other processors, so it is done only then.
func catch(listeners []net.Listener) error {
	err := addRules(listeners)
	if errors.Is(err, unix.EEXIST) {
		if err = removeRules(); err == nil {
			err = addRules(listeners)
		}
	}
	if err != nil {
		return missing(err)
	}
	return nil
}

// addRules makes the table and all that is in it, or nothing.
func addRules(listeners []net.Listener) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("reach the packet filter: %w", err)
	}
	table := conn.CreateTable(loopbackTable())
	chain := conn.AddChain(&nftables.Chain{
		Name: "loopback", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookOutput,
		Priority: nftables.ChainPriorityNATDest,
	})
	for _, listener := range listeners {
		address := listener.Addr().(*net.TCPAddr).AddrPort()
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: familyOf(address.Addr()).rule(address.Port())})
	}
	return conn.Flush()
}

// removeRules removes the table and all that is in it.
func removeRules() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("reach the packet filter: %w", err)
	}
	conn.DelTable(loopbackTable())
	return conn.Flush()
}

// missing says what a kernel lacks that does not know what a rule is made of.
func missing(err error) error {
	for _, unknown := range []error{unix.ENOENT, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT} {
		if errors.Is(err, unknown) {
			return fmt.Errorf("the kernel has no nftables NAT for both protocols (NF_TABLES_INET, NFT_NAT, NFT_REDIR): load the modules "+
				"nft_chain_nat and nft_redir: %w: %w", err, errdefs.ErrNotImplemented)
		}
	}
	return err
}

func familyOf(address netip.Addr) family {
	if address.Is4() {
		return families[0]
	}
	return families[1]
}

// rule redirects TCP for the family's loopback addresses to a port.
func (f family) rule(port uint16) []expr.Any {
	const register = 1
	prefix := f.loopback.Masked()
	length := uint32(prefix.Addr().BitLen() / 8)
	mask := net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())
	zero := make([]byte, length)
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{f.protocol}},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: f.destination, Len: length},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: length, Mask: mask, Xor: zero},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: prefix.Addr().AsSlice()},
		&expr.Immediate{Register: register, Data: binaryutil.BigEndian.PutUint16(port)},
		&expr.Redir{RegisterProtoMin: register},
	}
}

// ReleaseLoopback takes back the rules of CatchLoopback. What is not there is no error.
func (n *Namespace) ReleaseLoopback() error {
	err := n.do(removeRules)
	if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(missing(err), errdefs.ErrNotImplemented) {
		return nil
	}
	return fmt.Errorf("release connections to the namespace's loopback: %w", err)
}

// soOriginalDst is SO_ORIGINAL_DST of linux/netfilter_ipv4.h and IP6T_SO_ORIGINAL_DST of linux/netfilter_ipv6/ip6_tables.h.
const soOriginalDst = 80

// OriginalPort tells which port a connection was for that a listener of CatchLoopback has accepted.
func OriginalPort(conn *net.TCPConn) (uint16, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	level := familyOf(conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr()).level
	var original *unix.IPv6MTUInfo // begins with a socket address of either family, whose port is in the same place
	var option error
	err = raw.Control(func(fd uintptr) { original, option = unix.GetsockoptIPv6MTUInfo(int(fd), level, soOriginalDst) })
	if err := errors.Join(err, option); err != nil {
		return 0, fmt.Errorf("find a connection's original port: %w", err)
	}
	port := binary.NativeEndian.AppendUint16(nil, original.Addr.Port)
	return binary.BigEndian.Uint16(port), nil
}
