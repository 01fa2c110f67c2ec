package protocol

import (
	"bytes"
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
