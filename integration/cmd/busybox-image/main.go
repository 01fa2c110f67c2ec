// Command busybox-image writes an OCI image archive (https://github.com/opencontainers/image-spec, image layout in a
// tar) whose only layer is a static busybox with one symbolic link per applet: the image of the demonstration, the
// integration tests and the benchmarks. `ctr image import` reads it. Nothing is downloaded, and the same busybox gives
// the same bytes.
//
//	busybox-image -busybox /bin/busybox -name limpet.test/busybox:latest -out busybox.tar
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

func main() {
	busybox := flag.String("busybox", "/bin/busybox", "a statically linked busybox")
	name := flag.String("name", "limpet.test/busybox:latest", "the image's name in containerd")
	command := flag.String("command", "sh", "what a container of the image runs, words separated by spaces")
	out := flag.String("out", "", "the archive to write (required)")
	flag.Parse()
	if *out == "" || flag.NArg() != 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*busybox, *name, strings.Fields(*command), *out); err != nil {
		fmt.Fprintln(os.Stderr, "busybox-image:", err)
		os.Exit(1)
	}
}

func run(busybox, name string, command []string, out string) error {
	binary, err := os.ReadFile(busybox)
	if err != nil {
		return fmt.Errorf("read busybox: %w: install the Debian package busybox-static", err)
	}
	list, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return fmt.Errorf("ask %s for its applets: %w", busybox, err)
	}
	var archive bytes.Buffer
	if err := writeImage(&archive, name, command, binary, strings.Fields(string(list))); err != nil {
		return err
	}
	// A reader never sees half an archive: it appears under its name when it is whole.
	partial := out + ".partial"
	if err := os.WriteFile(partial, archive.Bytes(), 0o644); err != nil {
		return err
	}
	return os.Rename(partial, out)
}
