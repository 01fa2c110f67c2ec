package standalone

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

// sourceKind is what a run is made from.
type sourceKind string

// The kinds.
const (
	sourceRootfs        sourceKind = "directory"      // of a root file system
	sourceLayout        sourceKind = "oci-layout"     // a directory, or a tar archive of one
	sourceDockerArchive sourceKind = "docker-archive" // what `docker save` writes
	sourceImage         sourceKind = "image"          // the name of one, in a registry
)

// layoutFile is what every OCI layout has, and no root file system.
const layoutFile = "oci-layout"

// maxArchived is how many files of an archive are looked at: more than the layers of any image come to.
const maxArchived = 4096

// ResolveSource makes what a user calls a source absolute if it is a file or directory. What begins as a path does ("/", "./", "../"), or
// is there, is one, and else an image.
func ResolveSource(text string) (string, error) {
	isPath := filepath.IsAbs(text) || text == "." || text == ".." || strings.HasPrefix(text, "./") || strings.HasPrefix(text, "../")
	if _, err := os.Stat(text); err != nil && !isPath {
		return text, nil
	}
	return filepath.Abs(text)
}

// kindOf tells what a source is.
func kindOf(source string) (sourceKind, error) {
	if !filepath.IsAbs(source) {
		return sourceImage, nil
	}
	info, err := os.Stat(source)
	if err != nil {
		return "", fmt.Errorf("root file system or archive: %w: %w", err, errdefs.ErrNotFound)
	}
	if info.IsDir() {
		if _, err := os.Stat(filepath.Join(source, layoutFile)); err == nil {
			return sourceLayout, nil
		}
		return sourceRootfs, nil
	}
	file, err := os.Open(source)
	if err != nil {
		return "", err
	}
	defer file.Close()
	return kindOfArchive(file, source)
}

// kindOfArchive tells what kind of image a tar archive has in it. One may be both: then it is taken for the one that says more.
func kindOfArchive(archive io.Reader, name string) (sourceKind, error) {
	var docker bool
	reader := tar.NewReader(archive)
	for range maxArchived {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", fmt.Errorf("%s is neither a directory nor a tar archive (a compressed one is to be decompressed first): %w: %w", name,
				err, errdefs.ErrInvalidArgument)
		}
		switch path.Clean(header.Name) {
		case layoutFile:
			return sourceLayout, nil
		case "manifest.json":
			docker = true
		}
	}
	if docker {
		return sourceDockerArchive, nil
	}
	return "", fmt.Errorf("%s has no image in it: neither an OCI layout nor what `docker save` writes: %w", name, errdefs.ErrInvalidArgument)
}

// systemdResolvConf has the name servers that systemd-resolved, which answers on the loopback, itself asks.
const systemdResolvConf = "/run/systemd/resolve/resolv.conf"

// usableResolvConf is the path of a resolv.conf of this host by which its guests can resolve names: the given one, or systemd's if that has
// name servers on this host's own loopback. Empty: there is none.
func usableResolvConf(given string, read func(path string) ([]byte, error)) (string, error) {
	for _, path := range []string{given, systemdResolvConf} {
		if path == "" {
			continue
		}
		text, err := read(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("look for name servers: %w", err)
		}
		if hasServer(string(text)) {
			return path, nil
		}
	}
	return "", nil
}

// hasServer tells whether a resolv.conf has name servers, none of them on the loopback.
func hasServer(text string) bool {
	found := false
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if strings.HasPrefix(fields[1], "127.") || fields[1] == "::1" {
			return false
		}
		found = true
	}
	return found
}
