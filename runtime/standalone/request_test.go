package standalone

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestCheckName(t *testing.T) {
	for name, good := range map[string]bool{
		"a": true, "web-1": true, "A.b_c": true, strings.Repeat("x", 63): true,
		"": false, "-a": false, ".a": false, "a/b": false, "a b": false, "ä": false, strings.Repeat("x", 64): false, "a\n": false,
	} {
		if err := CheckName(name); (err == nil) != good || err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestParseVolume(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]Volume{
		"/a:/b":    {Source: "/a", Destination: "/b"},
		"/a:/b:rw": {Source: "/a", Destination: "/b"},
		"/a:/b:ro": {Source: "/a", Destination: "/b", ReadOnly: true},
		"a:/b":     {Source: filepath.Join(here, "a"), Destination: "/b"},
		".:/b":     {Source: here, Destination: "/b"},
		"/a":       {}, ":/b": {}, "/a:b": {}, "/a:": {}, "/a:/b:": {}, "/a:/b:rx": {}, "/a:/b:ro:x": {}, "": {},
	} {
		volume, err := ParseVolume(text)
		if volume != want || (err == nil) != (want != Volume{}) || err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: got %+v, %v", text, volume, err)
		}
	}
}

func TestParsePort(t *testing.T) {
	for text, want := range map[string]Port{
		"8080:80":         {"127.0.0.1", 8080, 80},
		"0:80":            {"127.0.0.1", 0, 80},
		"0.0.0.0:8080:80": {"0.0.0.0", 8080, 80},
		"[::1]:8080:80":   {"::1", 8080, 80},
		"80":              {}, "": {}, ":80": {}, "80:": {}, "80:0": {}, "65536:80": {}, "80:-1": {},
		"host:80:80": {}, ":80:80": {}, "80:80/udp": {},
	} {
		port, err := ParsePort(text)
		if port != want || (err == nil) != (want != Port{}) || err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: got %+v, %v", text, port, err)
		}
	}
}
