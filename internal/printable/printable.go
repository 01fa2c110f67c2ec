// Package printable takes from texts of the guest's what would speak to a terminal.
package printable

import (
	"strings"
	"unicode"
)

const (
	lineEnds = "\n\t" // what a text of several lines keeps besides
	mark     = '?'    // in place of what is taken away
	nothing  = -1
)

// Line marks by ? what would speak to the terminal, or break a line or a table.
func Line(text string) string { return replace(text, "", mark) }

// Short is Line of at most a number of bytes.
func Short(text string, limit int) string {
	text = Line(text)
	return strings.ToValidUTF8(text[:min(len(text), limit)], "")
}

// Lines is Line for a text of several lines, which may have tabs.
func Lines(text string) string { return replace(text, lineEnds, mark) }

// Strip is Lines without marks: a serial console writes a carriage return in each line.
func Strip(text string) string { return replace(text, lineEnds, nothing) }

func replace(text, keep string, instead rune) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) || strings.ContainsRune(keep, r) {
			return r
		}
		return instead
	}, text)
}
