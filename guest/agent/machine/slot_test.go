package machine

import (
	"bytes"
	"testing"
)

func TestFindExpress(t *testing.T) {
	for name, c := range map[string]struct {
		config map[int]byte // what is not 0 of 256 bytes
		want   int64        // 0: an error
	}{
		"the first":   {map[int]byte{0x34: 0x40, 0x40: 0x10}, 0x40},
		"the third":   {map[int]byte{0x34: 0x40, 0x40: 0x0d, 0x41: 0x60, 0x60: 0x05, 0x61: 0x54, 0x54: 0x10}, 0x54},
		"none":        {map[int]byte{0x34: 0x40, 0x40: 0x0d, 0x41: 0x60, 0x60: 0x05}, 0},
		"no list":     {map[int]byte{}, 0},
		"a circle":    {map[int]byte{0x34: 0x40, 0x40: 0x0d, 0x41: 0x40}, 0},
		"out of it":   {map[int]byte{0x34: 0xff}, 0},
		"cut short":   {nil, 0},
		"at the edge": {map[int]byte{0x34: 0xfe, 0xfe: 0x10}, 0xfe},
	} {
		t.Run(name, func(t *testing.T) {
			config := make([]byte, 256)
			if c.config == nil {
				config = config[:capabilitiesPointer]
			}
			for at, value := range c.config {
				config[at] = value
			}
			got, err := findExpress(bytes.NewReader(config))
			if got != c.want || (err == nil) != (c.want != 0) {
				t.Errorf("got %#x, %v; want %#x", got, err, c.want)
			}
		})
	}
}
