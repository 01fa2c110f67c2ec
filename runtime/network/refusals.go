package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// refusalGroup is the group of the kernel's packet log to which gates tell what they refuse: limpet's own, "li".
const refusalGroup = 0x6c69

// What the kernel's packet log is spoken to with: linux/netfilter/nfnetlink_log.h.
const (
	logPacket = unix.NFNL_SUBSYS_ULOG << 8 // NFULNL_MSG_PACKET
	logConfig = logPacket | 1              // NFULNL_MSG_CONFIG

	logConfigCommand   = 1 // NFULA_CFG_CMD
	logConfigMode      = 2 // NFULA_CFG_MODE
	logConfigThreshold = 5 // NFULA_CFG_QTHRESH
	logBind            = 1 // NFULNL_CFG_CMD_BIND
	logCopyPacket      = 2 // NFULNL_COPY_PACKET

	logInterface = 4 // NFULA_IFINDEX_INDEV
	logSender    = 8 // NFULA_HWADDR
	logPayload   = 9 // NFULA_PAYLOAD

	logHeader = 4 // bytes before a message's attributes (struct nfgenmsg)
)

// Refusal is what a gate did not let pass.
type Refusal struct {
	Protocol    byte // of what is in the packet, as far as it can be told: that of IPv6's first header
	Destination netip.Addr
	Port        uint16 // of TCP and UDP; 0 if it cannot be told
}

// String is for logs.
func (r Refusal) String() string {
	names := map[byte]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp", unix.IPPROTO_ICMP: "icmp", unix.IPPROTO_ICMPV6: "icmp"}
	name := names[r.Protocol]
	if name == "" {
		name = fmt.Sprint("protocol ", r.Protocol)
	}
	if r.Port == 0 {
		return name + " " + r.Destination.String()
	}
	return name + " " + netip.AddrPortFrom(r.Destination, r.Port).String()
}

// Refusals are what the gates in a namespace refuse. Who reads them answers the guest by it: the kernels of distributions cannot, at this
// place (NFT_REJECT_NETDEV).
type Refusals struct {
	log    *netlink.Conn
	socket *os.File // of packets, in the namespace
}

// Refusals begins to listen. There can be one listener in a namespace.
func (n *Namespace) Refusals() (*Refusals, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: int(n.file.Fd())})
	if err != nil {
		return nil, fmt.Errorf("reach the packet log: %w", err)
	}
	for _, attribute := range []netlink.Attribute{
		{Type: logConfigCommand, Data: []byte{logBind}},
		{Type: logConfigMode, Data: []byte{0, 0, 0, refusalBytes, logCopyPacket, 0}},
		{Type: logConfigThreshold, Data: []byte{0, 0, 0, 1}}, // tell each at once
	} {
		if err := configureLog(conn, attribute); err != nil {
			return nil, errors.Join(fmt.Errorf("listen for refused packets: %w", err), conn.Close())
		}
	}
	var socket int
	err = n.do(func() (err error) {
		socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) // for sending only
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open a socket to answer refused packets: %w", err), conn.Close())
	}
	return &Refusals{conn, os.NewFile(uintptr(socket), "packets")}, nil
}

func configureLog(conn *netlink.Conn, attribute netlink.Attribute) error {
	attributes, err := netlink.MarshalAttributes([]netlink.Attribute{attribute})
	if err != nil {
		return err
	}
	header := binary.BigEndian.AppendUint16([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0}, refusalGroup)
	_, err = conn.Execute(netlink.Message{
		Header: netlink.Header{Type: logConfig, Flags: netlink.Request | netlink.Acknowledge}, Data: append(header, attributes...),
	})
	return err
}

// Next waits for refusals and answers them. After Close it fails.
func (r *Refusals) Next() ([]Refusal, error) {
	messages, err := r.log.Receive()
	if errors.Is(err, unix.ENOBUFS) { // some were lost
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the packet log: %w", err)
	}
	var refusals []Refusal
	for _, message := range messages {
		if message.Header.Type != logPacket || len(message.Data) < logHeader {
			continue
		}
		attributes, err := netlink.UnmarshalAttributes(message.Data[logHeader:])
		if err != nil {
			return nil, fmt.Errorf("read the packet log: %w", err)
		}
		logged := newLogged(attributes)
		refused, ok := parsePacket(logged.head)
		if !ok {
			continue
		}
		refusals = append(refusals, Refusal{refused.protocol, refused.destination, refused.port()})
		r.answer(logged, refused)
	}
	return refusals, nil
}

// logged is what the packet log tells of a packet.
type logged struct {
	at   int    // the number of the interface at which it arrived
	from []byte // the hardware address of its sender; empty: not known
	head []byte // its beginning
}

func newLogged(attributes []netlink.Attribute) logged {
	const addressBegin = 4 // after its length and padding (struct nfulnl_msg_packet_hw)
	var l logged
	for _, attribute := range attributes {
		data := attribute.Data
		switch {
		case attribute.Type == logInterface && len(data) == 4:
			l.at = int(binary.BigEndian.Uint32(data))
		case attribute.Type == logSender && len(data) >= addressBegin+hardwareAddress:
			l.from = data[addressBegin : addressBegin+hardwareAddress]
		case attribute.Type == logPayload:
			l.head = data
		}
	}
	return l
}

// answer tells the guest that a packet is refused. One that cannot be told, as its tap has no room or has just gone, is not.
func (r *Refusals) answer(l logged, refused packet) {
	answer := refused.refusal()
	if answer == nil || l.at == 0 || len(l.from) == 0 {
		return
	}
	kind := gate4.ethernetType
	if refused.source.Is6() {
		kind = gate6.ethernetType
	}
	to := &unix.SockaddrLinklayer{Ifindex: l.at, Protocol: binary.NativeEndian.Uint16(kind), Halen: hardwareAddress}
	copy(to.Addr[:], l.from)
	socket, err := r.socket.SyscallConn()
	if err != nil {
		return
	}
	_ = socket.Control(func(fd uintptr) { _ = unix.Sendto(int(fd), answer, unix.MSG_DONTWAIT, to) })
}

// Close ends a Next that waits.
func (r *Refusals) Close() error { return errors.Join(r.log.Close(), r.socket.Close()) }
