package network

import (
	"bytes"
	"testing"
	"time"
)

// TestRefusals are told to the guest and to who listens.
func TestRefusals(t *testing.T) {
	namespace, card, tap, _ := gated(t)
	refusals, err := namespace.Refusals()
	if err != nil {
		t.Fatal(err)
	}
	defer refusals.Close()
	tcp, udp := tcpSegment(40000, 443, tcpSYN), udpDatagram(5, 53)
	for _, test := range []struct {
		name, want string
		frame      []byte
		answer     []byte // what the guest's answer ends in, or has
	}{
		{"TCP", "tcp 203.0.113.1:443", ethernet(card.MAC, 0x0800, packet4(own4, other4, 6, tcp, nil)), []byte{0x01, 0xbb, 0x9c, 0x40}},
		{"TCP, IPv6", "tcp [2001:db8:2::1]:443", ethernet(card.MAC, 0x86dd, packet6(own6, other6, 6, 64, tcp)), []byte{0x01, 0xbb, 0x9c, 0x40}},
		{"UDP", "udp 203.0.113.1:53", ethernet(card.MAC, 0x0800, packet4(own4, other4, 17, udp, nil)), []byte{3, 13}},
		{"UDP, IPv6", "udp [2001:db8:2::1]:53", ethernet(card.MAC, 0x86dd, packet6(own6, other6, 17, 64, udp)), []byte{1, 1}},
		{"echo", "icmp 203.0.113.1", ethernet(card.MAC, 0x0800, packet4(own4, other4, 1, []byte{8, 0, 0, 0, 0, 0, 0, 0}, nil)), []byte{3, 13}},
	} {
		if _, err := tap.Write(append(make([]byte, vnetHeader), test.frame...)); err != nil {
			t.Fatal(err)
		}
		told, err := refusals.Next()
		if err != nil || len(told) != 1 || told[0].String() != test.want {
			t.Errorf("%s: told %v, %v", test.name, told, err)
		}
		tap.SetReadDeadline(time.Now().Add(testTimeout))
		answer := make([]byte, 2000)
		n, err := tap.Read(answer)
		if err != nil {
			t.Fatalf("%s: no answer: %v", test.name, err)
		}
		const ethernetHeader = 14
		header := vnetHeader + ethernetHeader + 20
		if test.frame[12] == 0x86 {
			header += 20
		}
		if !bytes.HasPrefix(answer[header:n], test.answer) {
			t.Errorf("%s: answered %x", test.name, answer[header:n])
		}
	}
	if other, err := namespace.Refusals(); err == nil {
		other.Close()
		t.Error("two listen")
	}
}

// TestRefusalsEnd ends a wait.
func TestRefusalsEnd(t *testing.T) {
	refusals, err := newNamespace(t).Refusals()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		_, err := refusals.Next()
		ended <- err
	}()
	refusals.Close()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("it ended without an error")
		}
	case <-time.After(testTimeout):
		t.Error("it goes on")
	}
}
