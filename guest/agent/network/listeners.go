package network

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/guest/protocol"
)

// Listeners lists the TCP ports that are listened on, at every address or at loopback: those of lower numbers, if there are more than
// protocol.MaxListeners.
func Listeners() ([]protocol.Listener, error) {
	var sockets []netip.AddrPort
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
		request.AddData(diagRequest{family})
		answers, err := request.Execute(unix.NETLINK_INET_DIAG, 0)
		if err != nil {
			return nil, fmt.Errorf("list listening sockets: %w", err)
		}
		for _, answer := range answers {
			if socket, ok := diagSocket(answer); ok {
				sockets = append(sockets, socket)
			}
		}
	}
	return listenersOf(sockets), nil
}

// listenersOf is what a host can do for sockets that listen: nothing for one at a single address that is not loopback's.
func listenersOf(sockets []netip.AddrPort) []protocol.Listener {
	loopback := map[uint16]bool{} // of a port; false: also others
	for _, socket := range sockets {
		address := socket.Addr().Unmap()
		switch _, known := loopback[socket.Port()]; {
		case socket.Port() == 0:
		case address.IsUnspecified():
			loopback[socket.Port()] = false
		case address.IsLoopback() && !known:
			loopback[socket.Port()] = true
		}
	}
	var listeners []protocol.Listener
	for _, port := range slices.Sorted(maps.Keys(loopback)) {
		listeners = append(listeners, protocol.Listener{Port: port, Loopback: loopback[port]})
	}
	return listeners[:min(len(listeners), protocol.MaxListeners)]
}

// diagRequest asks for the listening TCP sockets of a family: struct inet_diag_req_v2 of linux/inet_diag.h.
type diagRequest struct{ family uint8 }

// diagRequestSize is its size: 8 bytes and the identification of a socket.
const diagRequestSize = 56

// Len implements nl.NetlinkRequestData.
func (diagRequest) Len() int { return diagRequestSize }

// Serialize implements nl.NetlinkRequestData.
func (r diagRequest) Serialize() []byte {
	const listening = 10 // TCP_LISTEN of net/tcp_states.h
	b := make([]byte, diagRequestSize)
	b[0], b[1] = r.family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[4:], 1<<listening)
	return b
}

// diagSocket reads where a socket listens: from struct inet_diag_msg, which begins with the family, and has a port at 4 and an address
// at 8.
func diagSocket(message []byte) (netip.AddrPort, bool) {
	const end = 8 + 16
	if len(message) < end {
		return netip.AddrPort{}, false
	}
	address := netip.AddrFrom16([16]byte(message[8:end]))
	if message[0] == unix.AF_INET {
		address = netip.AddrFrom4([4]byte(message[8:12]))
	}
	return netip.AddrPortFrom(address, binary.BigEndian.Uint16(message[4:])), true
}
