package runtime

import "testing"

func TestUsesSSHKeys(t *testing.T) {
	for name, test := range map[string]struct {
		request string
		want    bool
	}{
		"list":                {"\x00\x00\x00\x01\x0b", true},
		"sign":                {"\x00\x00\x00\x02\x0dx", true},
		"bind":                {"\x00\x00\x00\x1e\x1b\x00\x00\x00\x18session-bind@openssh.comx", true},
		"other extension":     {"\x00\x00\x00\x0a\x1b\x00\x00\x00\x05query", false},
		"extension cut short": {"\x00\x00\x00\x06\x1b\x00\x00\x00\x18s", false},
		"nameless extension":  {"\x00\x00\x00\x01\x1b", false},
		"add":                 {"\x00\x00\x00\x01\x11", false},
		"remove all":          {"\x00\x00\x00\x01\x13", false},
		"load a library":      {"\x00\x00\x00\x01\x14", false},
		"lock":                {"\x00\x00\x00\x01\x16", false},
		"answer":              {"\x00\x00\x00\x01\x0c", false},
		"nothing":             {"\x00\x00\x00\x00", false},
	} {
		if got := usesSSHKeys([]byte(test.request)); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
