package protocol

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestListeners(t *testing.T) {
	for _, test := range []struct {
		text string
		want []Listener
		is   error
	}{
		{"\x00\x00", nil, nil},
		{"\x00\x02\x00\x50\x00\xff\xff\x01", []Listener{{80, false}, {65535, true}}, nil},
		{"", nil, io.EOF},
		{"\x00", nil, io.ErrUnexpectedEOF},
		{"\x00\x01\x00\x50", nil, io.ErrUnexpectedEOF},
		{"\x00\x01\x00\x00\x00", nil, errdefs.ErrInvalidArgument},
		{"\x00\x01\x00\x50\x02", nil, errdefs.ErrInvalidArgument},
		{"\x00\x02\x00\x50\x00\x00\x50\x00", nil, errdefs.ErrInvalidArgument},
		{"\x00\x02\x00\x51\x00\x00\x50\x00", nil, errdefs.ErrInvalidArgument},
		{"\x01\x01" + strings.Repeat("\x00\x50\x00", MaxListeners+1), nil, errdefs.ErrInvalidArgument},
	} {
		source := strings.NewReader(test.text + "\x07")
		if test.is == io.EOF || test.is == io.ErrUnexpectedEOF {
			source = strings.NewReader(test.text)
		}
		got, err := ReadListeners(source)
		if !slices.Equal(got, test.want) || !errors.Is(err, test.is) {
			t.Errorf("%x: %v, %v", test.text, got, err)
		}
		if test.is != nil {
			continue
		}
		if source.Len() != 1 {
			t.Errorf("%x: %d bytes left of those that follow", test.text, source.Len())
		}
		var b bytes.Buffer
		if err := WriteListeners(&b, test.want); err != nil || b.String() != test.text {
			t.Errorf("%v: written %x, %v", test.want, b.String(), err)
		}
	}
	if err := WriteListeners(io.Discard, make([]Listener, MaxListeners+1)); !errdefs.IsInvalidArgument(err) {
		t.Errorf("too many: %v", err)
	}
}
