package integration

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/limpet-run/limpet/integration/harness"
)

// randomFile makes a file of so many bytes on the host and returns its path and what sha256sum says of it.
func (s *scope) randomFile(size int) (path, sum string) {
	s.Helper()
	data := make([]byte, size)
	_, _ = rand.Read(data) // never fails
	path = filepath.Join(s.TempDir(), "file")
	s.must(os.WriteFile(path, data, 0o750))
	return path, fmt.Sprintf("%x", sha256.Sum256(data))
}

// TestCp copies a large file into a container and out again.
func TestCp(t *testing.T) {
	s := limpetOnly(t)
	c := s.sleeper()
	const size = 100 << 20
	path, sum := s.randomFile(size)
	began := time.Now()
	s.must(s.limpet("cp", path, c.id+":/root/").Err())
	in := time.Now()
	result := c.exec(nil, "sh", "-c", "sha256sum /root/file; stat -c %a /root/file; ls -A /root")
	s.must(result.Err())
	if want := sum + "  /root/file\n750\nfile\n"; result.Stdout != want {
		t.Errorf("in the container: %q, want %q", result.Stdout, want)
	}
	back := filepath.Join(s.TempDir(), "back")
	asked := time.Now()
	s.must(s.limpet("cp", c.id+":/root/file", back).Err())
	t.Logf("in %s, out %s", in.Sub(began), time.Since(asked))
	data, err := os.ReadFile(back)
	s.must(err)
	if got := fmt.Sprintf("%x", sha256.Sum256(data)); got != sum {
		t.Errorf("%d bytes came back, with sha256 %s, want %s", len(data), got, sum)
	}
}

// TestCpPlaces copies small files to and from places of all kinds.
func TestCpPlaces(t *testing.T) {
	s := limpetOnly(t)
	c := s.sleeper("--mount", "type=tmpfs,dst=/memory,options=mode=755")
	second := c.joined()
	dir := s.TempDir()
	host := func(name string) string { return filepath.Join(dir, name) }
	s.must(os.WriteFile(host("one"), []byte("one\n"), 0o600))
	s.must(os.WriteFile(host("a:b"), nil, 0o600))
	s.must(os.Mkdir(host("into"), 0o700))
	for _, args := range [][]string{
		{host("one"), c.id + ":/memory/two"},                          // a mount of the container
		{c.id + "/" + c.id + ":/memory/two", host("into")},            // to a directory
		{host("into") + "/two", c.id + "/" + second.id + ":relative"}, // to another container
		{second.id + ":/relative", host("into") + "/"},
		{host("a:b"), c.id + ":/"},
		{"--guest", c.id + ":/proc/sys/kernel/ostype", host("into/ostype")},
	} {
		s.must(s.limpet("cp", args...).Err())
	}
	for name, want := range map[string]string{"into/two": "one\n", "into/relative": "one\n", "into/ostype": "Linux\n"} {
		if got, err := os.ReadFile(host(name)); string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	s.must(c.exec(nil, "test", "-f", "/a:b", "-a", "!", "-e", "/relative").Err())
	for _, test := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{host("none"), c.id + ":/"}, 1, "none"},
		{[]string{host("into"), c.id + ":/x"}, 1, "no regular file"},
		{[]string{host("one"), c.id + ":/none/x"}, 1, "not found"},
		{[]string{host("one"), c.id + ":/memory"}, 1, "is a directory"},
		{[]string{c.id + ":/none", host("x")}, 1, "not found"},
		{[]string{c.id + ":/dev/zero", host("x")}, 1, "no regular file"},
		{[]string{c.id + ":/../x", "/none/x"}, 1, "/none"},
		{[]string{host("one"), "none:/x"}, 1, "limpet ps"},
		{[]string{host("one"), host("x")}, 2, "SANDBOX:PATH"},
		{[]string{c.id + ":/x", c.id + ":/y"}, 2, "SANDBOX:PATH"},
		{[]string{":/x", "y"}, 2, "SANDBOX:PATH"},
		{[]string{host("one")}, 2, "SOURCE DESTINATION"},
	} {
		result := s.limpet("cp", test.args...)
		if result.Code != test.code || !strings.Contains(result.Stderr, test.says) {
			t.Errorf("%q: exit status %d, %q; want %d, %q", test.args, result.Code, result.Stderr, test.code, test.says)
		}
	}
	left, err := os.ReadDir(dir)
	s.must(err)
	if len(left) != 3 {
		t.Errorf("left in the directory: %v", left)
	}
}

// TestCpTree copies directories into a container and out again, and archives.
func TestCpTree(t *testing.T) {
	s := limpetOnly(t)
	c := s.sleeper()
	dir := s.TempDir()
	host := func(name string) string { return filepath.Join(dir, name) }
	s.must(os.MkdirAll(host("tree/below"), 0o750))
	s.must(os.WriteFile(host("tree/below/file"), []byte("text\n"), 0o640))
	s.must(os.Symlink("below/file", host("tree/link")))
	for _, args := range [][]string{
		{"-r", host("tree"), c.id + ":/root/"},
		{"-r", host("tree"), c.id + ":/root/other"},
		{"-r", c.id + ":/root/other", host("back")},
		{"-r", c.id + ":/root/tree/below/file", host("single")},
		{"-r", c.id + ":/root/tree", host("tree")}, // into it
	} {
		s.must(s.limpet("cp", args...).Err())
	}
	listing := c.exec(nil, "sh", "-c", "cd /root && find * | sort && stat -c %a%u other/below/file && cat other/link")
	s.must(listing.Err())
	want := "other other/below other/below/file other/link tree tree/below tree/below/file tree/link 6400 text"
	if strings.Join(strings.Fields(listing.Stdout), " ") != want {
		t.Errorf("in the container:\n%s", listing.Stdout)
	}
	for _, name := range []string{"back/link", "single", "tree/tree/below/file"} {
		if text, err := os.ReadFile(host(name)); string(text) != "text\n" {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
	packed := s.limpet("cp", c.id+":/root/tree", "-")
	s.must(packed.Err())
	unpack := s.limpetCmd("cp", "-", c.id+":/tmp")
	unpack.Stdin = strings.NewReader(packed.Stdout)
	s.must(harness.Run(unpack).Err())
	s.must(c.exec(nil, "test", "-f", "/tmp/tree/below/file").Err())
	for _, test := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"-r", c.id + ":/none", host("x")}, 1, "tar: none: No such file"},
		{[]string{"-r", host("none"), c.id + ":/root/"}, 1, "none"},
		{[]string{"-r", host("tree"), c.id + ":/none/x"}, 1, "can't change directory to '/none'"},
		{[]string{"-r", host("tree"), c.id + ":/"}, 0, ""},
		{[]string{"-r", c.id + ":/", host("x")}, 2, "has no name"},
		{[]string{"-r", c.id + ":/dev", host("dev")}, 1, "devices, pipes or sockets"},
		{[]string{host("tree"), c.id + ":/root/"}, 1, "-r"},
	} {
		result := s.limpet("cp", test.args...)
		if result.Code != test.code || !strings.Contains(result.Stderr, test.says) {
			t.Errorf("%q: exit status %d, %q; want %d, %q", test.args, result.Code, result.Stderr, test.code, test.says)
		}
	}
}
