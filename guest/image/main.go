// Command image writes the guest image: an initramfs whose init is limpet's agent, with the OCI runtime that the agent runs
// containers with. It is a plain cpio archive, so the guest kernel has nothing to decompress, and the same two programs give
// the same bytes.
//
//	image -agent limpet-agent -crun crun -out initramfs
//
// Both programs must be statically linked: the image has no libraries.
package main

import (
	"bytes"
	"debug/elf"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
)

func main() {
	agent := flag.String("agent", "", "limpet's agent, the guest's first process (required)")
	crun := flag.String("crun", "", "the OCI runtime (required)")
	out := flag.String("out", "", "the image to write (required)")
	flag.Parse()
	if *agent == "" || *crun == "" || *out == "" || flag.NArg() != 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*agent, *crun, *out); err != nil {
		fmt.Fprintln(os.Stderr, "write guest image:", err)
		os.Exit(1)
	}
}

func run(agentPath, crunPath, out string) error {
	agent, err := readProgram(agentPath)
	if err != nil {
		return err
	}
	crun, err := readProgram(crunPath)
	if err != nil {
		return err
	}
	var image bytes.Buffer
	if err := writeArchive(&image, contents(agent, crun)); err != nil {
		return err
	}
	partial := out + ".partial"
	if err := os.WriteFile(partial, image.Bytes(), 0o644); err != nil {
		return err
	}
	return os.Rename(partial, out)
}

// contents is all that is in the image, parents before what they hold.
func contents(agent, crun []byte) []entry {
	return []entry{
		// The kernel opens /dev/console for init before anything can mount a /dev with more in it.
		{name: "dev", mode: modeDirectory | 0o755},
		{name: "dev/console", mode: modeCharacter | 0o600, major: 5, minor: 1},
		{name: "etc", mode: modeDirectory | 0o755},
		{name: "init", mode: modeRegular | 0o755, data: agent},
		{name: "proc", mode: modeDirectory | 0o755},
		{name: "root", mode: modeDirectory | 0o700},
		{name: "run", mode: modeDirectory | 0o755},
		{name: "sys", mode: modeDirectory | 0o755},
		{name: "tmp", mode: modeDirectory | modeSticky | 0o777},
		{name: "usr", mode: modeDirectory | 0o755},
		{name: "usr/bin", mode: modeDirectory | 0o755},
		{name: "usr/bin/crun", mode: modeRegular | 0o755, data: crun},
	}
}

// readProgram returns a program's bytes; a program that needs a dynamic linker is refused, as the guest would only say that
// it does not exist.
func readProgram(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	file, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%s is no program for Linux: %w", path, err)
	}
	libraries, err := file.ImportedLibraries()
	if err != nil && !errors.Is(err, elf.ErrNoSymbols) {
		return nil, fmt.Errorf("read what %s is linked with: %w", path, err)
	}
	if len(libraries) > 0 {
		return nil, fmt.Errorf("%s is not static: it needs %s", path, strings.Join(libraries, ", "))
	}
	return data, nil
}
