package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

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

	logPayload = 9 // NFULA_PAYLOAD

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

// Refusals tells what the gates in a namespace refuse, but no more than ten in a second.
type Refusals struct{ conn *netlink.Conn }

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
	return &Refusals{conn}, nil
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

// Next waits for refusals. After Close it fails.
func (r *Refusals) Next() ([]Refusal, error) {
	messages, err := r.conn.Receive()
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
		for _, attribute := range attributes {
			if attribute.Type != logPayload {
				continue
			}
			if refusal, ok := parseRefusal(attribute.Data); ok {
				refusals = append(refusals, refusal)
			}
		}
	}
	return refusals, nil
}

// Close ends a Next that waits.
func (r *Refusals) Close() error { return r.conn.Close() }

// parseRefusal reads the beginning of a packet, which is the guest's.
func parseRefusal(packet []byte) (Refusal, bool) {
	if len(packet) == 0 {
		return Refusal{}, false
	}
	const length4, length6 = 20, 40 // bytes of headers
	var refusal Refusal
	var payload []byte
	switch version := packet[0] >> 4; {
	case version == 4 && len(packet) >= length4:
		refusal.Protocol = packet[9]
		refusal.Destination = netip.AddrFrom4([4]byte(packet[16:20]))
		length := int(packet[0]&0xf) * 4
		const offset = 0x1fff // the bits of a fragment's place
		if length >= length4 && length <= len(packet) && binary.BigEndian.Uint16(packet[6:])&offset == 0 {
			payload = packet[length:]
		}
	case version == 6 && len(packet) >= length6:
		refusal.Protocol = packet[6]
		refusal.Destination = netip.AddrFrom16([16]byte(packet[24:40]))
		payload = packet[length6:]
	default:
		return Refusal{}, false
	}
	const portsLength = 4
	if (refusal.Protocol == unix.IPPROTO_TCP || refusal.Protocol == unix.IPPROTO_UDP) && len(payload) >= portsLength {
		refusal.Port = binary.BigEndian.Uint16(payload[2:])
	}
	return refusal, true
}
