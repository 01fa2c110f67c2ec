package printable

import (
	"strings"
	"testing"
)

func TestPrintable(t *testing.T) {
	for _, test := range []struct{ text, line, short, lines, strip string }{
		{"plain \u00e9", "plain \u00e9", "plain ", "plain \u00e9", "plain \u00e9"},
		{"a\tb\r\n\x1b[31mc", "a?b???[31mc", "a?b???[", "a\tb?\n?[31mc", "a\tb\n[31mc"},
		{"\u202e\x00\ufffd", "??\ufffd", "??\ufffd", "??\ufffd", "\ufffd"}, // a text that turns round
		{"a\xffb", "a\ufffdb", "a\ufffdb", "a\ufffdb", "a\ufffdb"},
	} {
		for name, got := range map[string][2]string{
			"Line": {Line(test.text), test.line}, "Short": {Short(test.text, 7), test.short},
			"Lines": {Lines(test.text), test.lines}, "Strip": {Strip(test.text), test.strip},
		} {
			if got[0] != got[1] {
				t.Errorf("%s(%q): %q, want %q", name, test.text, got[0], got[1])
			}
		}
	}
	if got := Short("a\x1bb\u00e9"+strings.Repeat("x", 10), 6); got != "a?b\u00e9x" {
		t.Errorf("got %q", got)
	}
}
