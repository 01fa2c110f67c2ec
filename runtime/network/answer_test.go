package network

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
)

// wellFormed checks an answer's lengths, addresses and checksums.
func wellFormed(t *testing.T, asked packet, answer []byte) packet {
	t.Helper()
	got, ok := parsePacket(answer)
	if !ok || got.source != asked.destination || got.destination != asked.source || got.length != len(got.header) {
		t.Fatalf("answered %x", answer)
	}
	if !bytes.Equal(summed(got.source, got.destination, got.protocol, got.header), got.header) {
		t.Errorf("a wrong checksum: %x", answer)
	}
	if got.source.Is4() && internetChecksum(answer[:ip4HeaderLength]) != 0 {
		t.Errorf("a wrong checksum of the header: %x", answer)
	}
	return got
}

func TestRefusalAnswers(t *testing.T) {
	tcp := func(flags byte, data int) []byte {
		segment := tcpSegment(40000, 443, flags)
		binary.BigEndian.PutUint32(segment[4:], 1000)
		binary.BigEndian.PutUint32(segment[8:], 2000)
		return append(segment, make([]byte, data)...)
	}
	const rst, ack = 4, 16
	fragment := packet4(own4, other4, 17, udpDatagram(1, 2), func(h []byte) []byte { h[7] = 9; return h })
	for _, test := range []struct {
		name     string
		head     []byte
		protocol byte // of the answer; 0: there is none
		begins   []byte
		sequence [2]uint32 // of a reset, and what it acknowledges
	}{
		{"SYN", packet4(own4, other4, 6, tcp(tcpSYN, 0), nil), 6, []byte{rst | ack}, [2]uint32{0, 1001}},
		{"SYN with data", packet4(own4, other4, 6, tcp(tcpSYN, 5), nil), 6, []byte{rst | ack}, [2]uint32{0, 1006}},
		{"FIN", packet4(own4, other4, 6, tcp(1, 0), nil), 6, []byte{rst | ack}, [2]uint32{0, 1001}},
		{"ACK", packet4(own4, other4, 6, tcp(tcpACK, 7), nil), 6, []byte{rst}, [2]uint32{2000, 0}},
		{"SYN, IPv6", packet6(own6, other6, 6, 64, tcp(tcpSYN, 0)), 6, []byte{rst | ack}, [2]uint32{0, 1001}},
		{"SYN with options", packet4(own4, other4, 6, tcp(tcpSYN, 0), sourceRoute), 6, []byte{rst | ack}, [2]uint32{0, 1001}},
		{"RST", packet4(own4, other4, 6, tcp(rst, 0), nil), 0, nil, [2]uint32{}},
		{"half of TCP", packet4(own4, other4, 6, tcp(tcpSYN, 0)[:12], nil), 1, []byte{3, 13}, [2]uint32{}},
		{"UDP", packet4(own4, other4, 17, udpDatagram(1, 2), nil), 1, []byte{3, 13}, [2]uint32{}},
		{"UDP, IPv6", packet6(own6, other6, 17, 64, udpDatagram(1, 2)), 58, []byte{1, 1}, [2]uint32{}},
		{"echo", packet4(own4, other4, 1, []byte{8, 0, 0, 0}, nil), 1, []byte{3, 13}, [2]uint32{}},
		{"echo, IPv6", packet6(own6, other6, 58, 64, []byte{128, 0, 0, 0}), 58, []byte{1, 1}, [2]uint32{}},
		{"another protocol", packet4(own4, other4, 47, []byte{1}, nil), 1, []byte{3, 13}, [2]uint32{}},
		{"routing header", packet6(own6, other6, 43, 64, make([]byte, 8)), 58, []byte{1, 1}, [2]uint32{}},
		{"echo's answer", packet4(own4, other4, 1, []byte{0, 0, 0, 0}, nil), 0, nil, [2]uint32{}},
		{"error", packet4(own4, other4, 1, []byte{3, 1, 0, 0}, nil), 0, nil, [2]uint32{}},
		{"error, IPv6", packet6(own6, other6, 58, 64, []byte{1, 1, 0, 0}), 0, nil, [2]uint32{}},
		{"later fragment", fragment, 0, nil, [2]uint32{}},
	} {
		asked, ok := parsePacket(test.head)
		if !ok {
			t.Fatal(test.name)
		}
		answer := asked.refusal()
		if test.protocol == 0 {
			if answer != nil {
				t.Errorf("%s: answered %x", test.name, answer)
			}
			continue
		}
		got := wellFormed(t, asked, answer)
		switch {
		case got.protocol != test.protocol:
			t.Errorf("%s: answered %x", test.name, answer)
		case got.protocol == 6:
			sequence := [2]uint32{binary.BigEndian.Uint32(got.header[4:]), binary.BigEndian.Uint32(got.header[8:])}
			if got.port() != 40000 || got.header[13] != test.begins[0] || sequence != test.sequence {
				t.Errorf("%s: answered %x", test.name, answer)
			}
		case !bytes.HasPrefix(got.header, test.begins) || !bytes.Equal(got.header[icmpLength:], test.head):
			t.Errorf("%s: answered %x", test.name, answer)
		}
	}
}

func FuzzRefusal(f *testing.F) {
	f.Add(packet4(own4, other4, 6, tcpSegment(1, 2, 0), nil))
	f.Add(packet4(own4, other4, 6, tcpSegment(1, 2, 0), sourceRoute))
	f.Add(packet6(own6, other6, 17, 64, udpDatagram(1, 2)))
	f.Add([]byte{0x4f})
	f.Fuzz(func(t *testing.T, head []byte) {
		head = head[:min(len(head), refusalBytes)]
		before := slices.Clone(head)
		asked, ok := parsePacket(head)
		if !ok {
			return
		}
		if answer := asked.refusal(); answer != nil {
			wellFormed(t, asked, answer)
		}
		if name := (Refusal{asked.protocol, asked.destination, asked.port()}).String(); name == "" || !bytes.Equal(before, head) {
			t.Errorf("%s, changed: %v", name, !bytes.Equal(before, head))
		}
	})
}
