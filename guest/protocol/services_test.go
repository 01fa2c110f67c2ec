package protocol

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestDNS(t *testing.T) {
	for _, size := range []int{0, 1, MaxQuestion, MaxWrite, MaxAnswer} {
		message := bytes.Repeat([]byte{7}, size)
		var wire bytes.Buffer
		if err := WriteDNS(&wire, message); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadDNS(&wire, MaxAnswer); err != nil || !bytes.Equal(got, message) || wire.Len() > 0 {
			t.Errorf("%d bytes: %d, %v, %d are left", size, len(got), err, wire.Len())
		}
	}
	if err := WriteDNS(io.Discard, make([]byte, MaxAnswer+1)); !errdefs.IsInvalidArgument(err) {
		t.Errorf("too long: %v", err)
	}
}

func TestReadDNSRefuses(t *testing.T) {
	if _, err := ReadDNS(strings.NewReader(""), MaxQuestion); err != io.EOF {
		t.Errorf("nothing: %v", err)
	}
	if _, err := ReadDNS(strings.NewReader("\x10\x01"), MaxQuestion); !errdefs.IsOutOfRange(err) {
		t.Errorf("too long: %v", err)
	}
	for _, wire := range []string{"\x00", "\x00\x02a"} {
		if _, err := ReadDNS(strings.NewReader(wire), MaxQuestion); err == nil {
			t.Errorf("%q was read", wire)
		}
	}
}

func TestCopySSHAgentMessage(t *testing.T) {
	message := func(length uint32, size int) string {
		return string(binary.BigEndian.AppendUint32(nil, length)) + strings.Repeat("m", size)
	}
	for _, size := range []int{1, MaxWrite, MaxSSHAgentMessage} {
		var copied bytes.Buffer
		wire := message(uint32(size), size)
		source := strings.NewReader(wire + "next")
		if err := CopySSHAgentMessage(&copied, source); err != nil || copied.String() != wire || source.Len() != len("next") {
			t.Errorf("%d bytes: copied %d, %d are left, %v", size, copied.Len(), source.Len(), err)
		}
	}
	for name, wire := range map[string]string{
		"empty": message(0, 0), "too long": message(MaxSSHAgentMessage+1, 0), "cut": message(5, 4), "cut length": "\x00\x00",
	} {
		if err := CopySSHAgentMessage(io.Discard, strings.NewReader(wire)); err == nil || err == io.EOF {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := CopySSHAgentMessage(io.Discard, strings.NewReader("")); err != io.EOF {
		t.Errorf("nothing: %v", err)
	}
}
