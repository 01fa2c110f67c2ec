package standalone

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func archiveOf(t *testing.T, names ...string) []byte {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, name := range names {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Size: 3, Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("abc")); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes()
}

func TestKindOf(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string][]byte{
		"layout/oci-layout": []byte("{}"), "root/bin/sh": nil, "layout.tar": archiveOf(t, "blobs/a", "oci-layout"),
		"docker.tar": archiveOf(t, "a/layer.tar", "./manifest.json"), "both.tar": archiveOf(t, "manifest.json", "./oci-layout"),
		"other.tar": archiveOf(t, "bin/sh"), "text": []byte(strings.Repeat("no archive ", 100)), "empty": nil,
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]sourceKind{
		"layout": sourceLayout, "root": sourceRootfs, "layout.tar": sourceLayout, "docker.tar": sourceDockerArchive, "both.tar": sourceLayout,
		"other.tar": "", "text": "", "empty": "",
	} {
		kind, err := kindOf(filepath.Join(dir, name))
		if kind != want || (err == nil) != (want != "") || err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: got %q, %v", name, kind, err)
		}
	}
	if kind, err := kindOf("alpine"); kind != sourceImage || err != nil {
		t.Errorf("got %q, %v", kind, err)
	}
	if _, err := kindOf("/nowhere"); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
}

func TestResolveSource(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.Mkdir("alpine", 0o755); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"alpine": dir + "/alpine", "alpine/": dir + "/alpine", "busybox": "busybox", "registry:5000/a/b:c": "registry:5000/a/b:c",
		"./busybox": dir + "/busybox", "../x": filepath.Dir(dir) + "/x", "/x": "/x", ".": dir,
	} {
		if got, err := ResolveSource(text); got != want || err != nil {
			t.Errorf("%s: got %s, %v", text, got, err)
		}
	}
}

func TestUsableResolvConf(t *testing.T) {
	const etc = "/etc/resolv.conf"
	for _, test := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"none", nil, ""},
		{"real servers", map[string]string{
			etc: "search x\nnameserver 10.0.0.1\nnameserver fd00::1\n", systemdResolvConf: "nameserver 1.1.1.1\n",
		}, etc},
		{"a stub", map[string]string{etc: "nameserver 127.0.0.53\n", systemdResolvConf: "nameserver 1.1.1.1\n"}, systemdResolvConf},
		{"only a stub", map[string]string{etc: "nameserver ::1\n"}, ""},
		{"only a search", map[string]string{etc: "search x\n# nameserver 10.0.0.1\n"}, ""},
	} {
		got, err := usableResolvConf(etc, func(path string) ([]byte, error) {
			if text, ok := test.files[path]; ok {
				return []byte(text), nil
			}
			return nil, fs.ErrNotExist
		})
		if got != test.want || err != nil {
			t.Errorf("%s: got %q, %v", test.name, got, err)
		}
	}
	broken := errors.New("broken")
	if _, err := usableResolvConf(etc, func(string) ([]byte, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}
