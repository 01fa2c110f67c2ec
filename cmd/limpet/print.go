package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"

	"github.com/docker/go-units"

	"github.com/limpet-run/limpet/runtime/execsidecar"
)

// isTerminal tells whether a person looks at what is written there, or writes what is read there.
func isTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && execsidecar.IsTerminal(file)
}

func printJSON(w io.Writer, value any) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(w, safeJSON(string(text)))
	return err
}

// printAge says how long ago something was, as people do.
func printAge(since, now time.Time) string { return units.HumanDuration(now.Sub(since)) }

// printBytes says a size in KiB, MiB or more.
func printBytes(bytes uint64) string { return units.BytesSize(float64(bytes)) }

// compactJSON makes one line of JSON of the guest's, with nothing in it that would speak to the terminal.
func compactJSON(text []byte) (string, error) {
	var compact bytes.Buffer
	if err := json.Compact(&compact, text); err != nil {
		return "", err
	}
	return safeJSON(compact.String()), nil
}

// safeJSON escapes what would speak to the terminal in the texts of JSON. The ends of lines are between these.
func safeJSON(text string) string {
	var safe strings.Builder
	for _, r := range text {
		if r == '\n' || unicode.IsPrint(r) {
			safe.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&safe, `\u%04x`, unit)
		}
	}
	return safe.String()
}
