package main

import (
	"strings"
	"testing"

	"github.com/limpet-run/limpet/guest/protocol"
)

func TestPrintImages(t *testing.T) {
	var text strings.Builder
	err := printImages(&text, []protocol.ImageInfo{
		{
			Reference: "docker.io/library/a:1", Digest: "sha256:" + strings.Repeat("0a", 32), OS: "linux", Architecture: "amd64", LayerCount: 2,
			Size: 3 << 20,
		},
		{Reference: "b\x1b[2J", Digest: "x"},
	})
	want := []string{
		"IMAGE DIGEST PLATFORM LAYERS SIZE", "docker.io/library/a:1 sha256:0a0a0a0a0a0a linux/amd64 2 3MiB", "b?[2J x / 0 0B",
	}
	var got []string
	for line := range strings.Lines(text.String()) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}
