package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// listTree describes what is below a directory, a line each.
func listTree(t *testing.T, dir string) (lines []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || file == dir {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, file)
		line := info.Mode().String() + " " + name
		switch {
		case info.Mode().IsRegular():
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			line += " " + string(text)
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(file)
			if err != nil {
				return err
			}
			line += " " + target
		}
		lines = append(lines, line)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// TestTree packs a tree and unpacks it under another name, over one that is there.
func TestTree(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	tree := filepath.Join(from, "tree")
	for _, err := range []error{
		os.Mkdir(tree, 0o755), os.Mkdir(filepath.Join(tree, "closed"), 0o700),
		os.WriteFile(filepath.Join(tree, "closed/file"), []byte("text"), 0o640),
		os.Symlink("/etc/passwd", filepath.Join(tree, "link")), os.WriteFile(filepath.Join(tree, "su"), nil, 0o700),
		os.Chmod(filepath.Join(tree, "su"), 0o755|fs.ModeSetuid), os.Chmod(filepath.Join(tree, "closed"), 0o500),
		os.Chtimes(filepath.Join(tree, "closed"), time.Time{}, time.Unix(1e9, 0)), unix.Mkfifo(filepath.Join(tree, "fifo"), 0o600),
		os.Mkdir(filepath.Join(to, "copy"), 0o700), os.WriteFile(filepath.Join(to, "copy/su"), []byte("old"), 0o600),
		os.WriteFile(filepath.Join(to, "copy/other"), nil, 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var archive bytes.Buffer
	left, err := packTree(&archive, tree, "name")
	if err != nil || !slices.Equal(left, []string{filepath.Join(tree, "fifo")}) {
		t.Fatalf("left out %q, %v", left, err)
	}
	if left, err := unpackTree(&archive, "name", to, "copy"); err != nil || len(left) > 0 {
		t.Fatalf("left out %q, %v", left, err)
	}
	want := []string{
		"drwxr-xr-x copy", "dr-x------ copy/closed", "-rw-r----- copy/closed/file text", "Lrwxrwxrwx copy/link /etc/passwd",
		"-rw------- copy/other ", "-rwxr-xr-x copy/su ",
	}
	if got := listTree(t, to); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if info, err := os.Stat(filepath.Join(to, "copy/closed")); err != nil || !info.ModTime().Equal(time.Unix(1e9, 0)) {
		t.Errorf("got %v, %v", info, err)
	}
}

// TestUnpackHostile has archives that try to get out, or to do what was not asked for.
func TestUnpackHostile(t *testing.T) {
	file := func(name string) *tar.Header { return &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644} }
	dir := func(name string) *tar.Header { return &tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755} }
	link := func(name, to string) *tar.Header {
		return &tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
	}
	for _, test := range []struct {
		name    string
		entries []*tar.Header
		err     string
		want    []string
		left    []string
	}{
		{"absolute", []*tar.Header{file("/etc/x")}, "not asked for", nil, nil},
		{"up", []*tar.Header{file("x/../../y")}, "not asked for", nil, nil},
		{"other", []*tar.Header{file("other")}, "not asked for", nil, nil},
		{"similar", []*tar.Header{file("xx")}, "not asked for", nil, nil},
		{"nothing", nil, "nothing was sent", nil, nil},
		{"through a link", []*tar.Header{dir("x"), link("x/up", "../../outside"), file("x/up/file")}, "path escapes", nil, nil},
		{"through an absolute link", []*tar.Header{dir("x"), link("x/etc", "/etc"), file("x/etc/file")}, "path escapes", nil, nil},
		{"over a link", []*tar.Header{dir("x"), link("x/file", "/etc/passwd"), file("x/file")}, "",
			[]string{"drwxr-xr-x y", "-rw-r--r-- y/file "}, nil},
		{"over a directory", []*tar.Header{dir("x"), dir("x/d"), file("x/d")}, "is a directory", nil, nil},
		{"directory over a link", []*tar.Header{dir("x"), link("x/d", "."), dir("x/d")}, "file exists", nil, nil},
		{"link to elsewhere", []*tar.Header{dir("x"), {Typeflag: tar.TypeLink, Name: "x/p", Linkname: "/etc/passwd"}}, "not asked for", nil, nil},
		{"hard link", []*tar.Header{dir("x"), file("x/a"), {Typeflag: tar.TypeLink, Name: "x/b", Linkname: "x/a"}}, "",
			[]string{"drwxr-xr-x y", "-rw-r--r-- y/a ", "-rw-r--r-- y/b "}, nil},
		{"device", []*tar.Header{dir("x"), {Typeflag: tar.TypeBlock, Name: "x/sda", Devmajor: 8}, {Typeflag: tar.TypeFifo, Name: "x/fifo"}}, "",
			[]string{"drwxr-xr-x y"}, []string{"y/sda", "y/fifo"}},
		{"file", []*tar.Header{file("x")}, "", []string{"-rw-r--r-- y "}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "into"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(filepath.Join(dir, "outside"), 0o700); err != nil {
				t.Fatal(err)
			}
			left, err := unpackTree(archiveOf(t, test.entries), "x", filepath.Join(dir, "into"), "y")
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("got %v, want %q", err, test.err)
			}
			if got := listTree(t, filepath.Join(dir, "into")); err == nil && !slices.Equal(got, test.want) || !slices.Equal(left, test.left) {
				t.Errorf("got %q, left out %q", got, left)
			}
			if got := listTree(t, filepath.Join(dir, "outside")); len(got) > 0 {
				t.Errorf("outside: %q", got)
			}
		})
	}
}

// TestUnpackStaysInTree has archives whose links lead out of the tree, to what lies beside it.
func TestUnpackStaysInTree(t *testing.T) {
	file := func(name string) *tar.Header { return &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o666} }
	dir := func(name string) *tar.Header { return &tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o777} }
	link := func(name, to string) *tar.Header {
		return &tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
	}
	hardLink := func(name, to string) *tar.Header {
		return &tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to}
	}
	for _, test := range []struct {
		name    string
		there   string // what the link that is there already leads to; empty: there is none
		entries []*tar.Header
		err     string
	}{
		{"file", "", []*tar.Header{dir("x"), link("x/up", ".."), file("x/up/beside")}, "path escapes"},
		{"hard link", "", []*tar.Header{dir("x"), link("x/up", ".."), hardLink("x/taken", "x/up/beside")}, "path escapes"},
		{"directory", "", []*tar.Header{dir("x"), link("x/up", ".."), dir("x/up/dir")}, "path escapes"},
		{"the tree itself", "", []*tar.Header{link("x", "."), file("x/beside")}, "below what is no directory"},
		{"a link of the last time", ".", []*tar.Header{file("x/beside")}, "below what is no directory"},
		{"a directory at a link of the last time", ".", []*tar.Header{dir("x"), file("x/beside")}, "file exists"},
	} {
		t.Run(test.name, func(t *testing.T) {
			into := t.TempDir()
			beside := filepath.Join(into, "beside")
			if err := os.WriteFile(beside, []byte("mine"), 0o600); err != nil {
				t.Fatal(err)
			}
			if test.there != "" {
				if err := os.Symlink(test.there, filepath.Join(into, "y")); err != nil {
					t.Fatal(err)
				}
			}
			_, err := unpackTree(archiveOf(t, test.entries), "x", into, "y")
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("got %v, want %q", err, test.err)
			}
			var is unix.Stat_t
			text, err := os.ReadFile(beside)
			if err := errors.Join(err, unix.Stat(beside, &is)); err != nil || string(text) != "mine" || is.Nlink != 1 || is.Mode&0o777 != 0o600 {
				t.Errorf("beside the tree: %q, %d names, mode %o, %v", text, is.Nlink, is.Mode, err)
			}
		})
	}
}

// TestUnpackBounded has archives that would take more memory or disk than they have bytes.
func TestUnpackBounded(t *testing.T) {
	dir := func(name string) *tar.Header { return &tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755} }
	t.Run("long name", func(t *testing.T) {
		entries := []*tar.Header{dir("x"), dir("x/" + strings.Repeat("d/", maxTreeName/2))}
		if _, err := unpackTree(archiveOf(t, entries), "x", t.TempDir(), "y"); err == nil || !strings.Contains(err.Error(), "more than a path") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("left out", func(t *testing.T) {
		entries := []*tar.Header{dir("x")}
		for i := range maxLeft + 10 {
			entries = append(entries, &tar.Header{Typeflag: tar.TypeFifo, Name: fmt.Sprint("x/", i)})
		}
		if left, err := unpackTree(archiveOf(t, entries), "x", t.TempDir(), "y"); err != nil || len(left) != maxLeft {
			t.Errorf("%d names of what was left out, %v", len(left), err)
		}
	})
	t.Run("the same directory again", func(t *testing.T) {
		root, err := os.OpenRoot(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		u := &unpacker{parent: root, to: "y"}
		for _, name := range []string{".", "d", "d", "d/e", "f", ".", "."} {
			if err := u.add(dir(name), nil); err != nil {
				t.Fatal(err)
			}
		}
		defer u.tree.Close()
		if len(u.dirs) != 1 {
			t.Errorf("%d directories are remembered, want that of the top", len(u.dirs))
		}
	})
	t.Run("sparse", func(t *testing.T) {
		var records string
		for _, record := range []string{"GNU.sparse.size=65536", "GNU.sparse.numblocks=1", "GNU.sparse.map=65536,0"} {
			records += fmt.Sprintf("%d %s\n", len(record)+len("NN \n"), record)
		}
		var archive bytes.Buffer
		writer := tar.NewWriter(&archive)
		if err := writer.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "x", Size: int64(len(records))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(writer, records); err != nil {
			t.Fatal(err)
		}
		if err := writer.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "x", Mode: 0o600}); err != nil {
			t.Fatal(err)
		}
		if err := writer.Close(); err != nil {
			t.Fatal(err)
		}
		const typeAt, checksumAt = 156, 148 // in the header, of which the checksum is the sum of the bytes
		first := archive.Bytes()[:512]
		var sum int
		if _, err := fmt.Sscanf(string(first[checksumAt:checksumAt+6]), "%o", &sum); err != nil {
			t.Fatal(err)
		}
		copy(first[checksumAt:], fmt.Sprintf("%06o", sum+tar.TypeXHeader-tar.TypeReg))
		first[typeAt] = tar.TypeXHeader
		if _, err := unpackTree(&archive, "x", t.TempDir(), "y"); err == nil || !strings.Contains(err.Error(), "has not all of") {
			t.Errorf("got %v", err)
		}
	})
}

// archiveOf is an archive of entries without content.
func archiveOf(t *testing.T, entries []*tar.Header) *bytes.Buffer {
	t.Helper()
	var archive bytes.Buffer
	writer := tar.NewWriter(&archive)
	for _, header := range entries {
		if err := writer.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	return &archive
}
