package runtime

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestGuestData(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, size int) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(strings.Repeat("x", size)), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	data := guestData{
		"small": write("a", 3), "largest": write("b", maxGuestData), "larger": write("c", maxGuestData+1),
		"missing": filepath.Join(dir, "none"), "off": "",
	}
	for name, want := range map[string]int{"small": 3, "largest": maxGuestData} {
		if got, err := data.read(name); len(got) != want || err != nil {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	for _, name := range []string{"missing", "off", "unknown", "../a", filepath.Join(dir, "a"), "\x1b[2J"} {
		if _, err := data.read(name); !errdefs.IsNotFound(err) || strings.Contains(err.Error(), "\x1b") || strings.Contains(err.Error(), "none") {
			t.Errorf("%q: %v", name, err)
		}
	}
	data["directory"] = dir
	if _, err := data.read("directory"); err == nil || strings.Contains(err.Error(), dir) {
		t.Errorf("directory: %v, which the guest is told", err)
	}
	if _, err := data.read("larger"); !errdefs.IsResourceExhausted(err) {
		t.Errorf("larger: %v", err)
	}
}

// TestGuestResolvConf: a guest whose names the host resolves is told to ask itself.
func TestGuestResolvConf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte("search example.org\nnameserver 192.0.2.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		guard *egressGuard
		want  string
	}{{nil, "nameserver 192.0.2.1"}, {&egressGuard{}, "nameserver 127.0.0.1"}} {
		s := &Sandbox{egress: test.guard}
		text, err := s.guestData(map[string]string{resolvData: path, "other": path})(resolvData)
		if err != nil || !strings.Contains(string(text), test.want) || !strings.Contains(string(text), "search example.org") ||
			strings.Count(string(text), "nameserver") != 1 {
			t.Errorf("got %q, %v, want %q", text, err, test.want)
		}
	}
}
