package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/limpet-run/limpet/guest/client"
	"github.com/limpet-run/limpet/guest/protocol"
)

func cpCommand() *cli.Command {
	return &cli.Command{
		Name:      "cp",
		Usage:     "copy files between this host and a container",
		ArgsUsage: "SOURCE DESTINATION",
		Description: "One of the two is SANDBOX:PATH or SANDBOX/CONTAINER:PATH, a path as the container's processes see it, mounts included;\n" +
			"the other is a path of this host, with ./ in front if it has a colon. A destination that ends with / is a directory to\n" +
			"copy into. A file of up to 4 GiB appears whole or not at all, in the container as root's.\n" +
			"Directories, with -r, and larger files are packed or unpacked by the container's own tar(1). In place of the path of\n" +
			"this host, - stands for a tar archive on standard input or output.\n" + referenceUsage,
		Flags: sandboxFlags(
			&cli.BoolFlag{Name: "recursive", Aliases: []string{"r"}, Usage: "copy directories with all that is below them"},
			&cli.BoolFlag{Name: "guest", Usage: "the file is the guest's own, not a container's"}),
		OnUsageError: onUsageError,
		Before:       arguments(2, 2),
		Action:       copyFiles,
	}
}

// place is where cp copies from or to.
type place struct {
	reference string // to a sandbox or container; empty: this host
	path      string
}

// parsePlace tells SANDBOX:PATH from a path of this host.
func parsePlace(text string) (place, error) {
	reference, file, remote := strings.Cut(text, ":")
	if !remote || strings.HasPrefix(text, "/") || strings.HasPrefix(text, ".") {
		if text == "" {
			return place{}, usageError{errors.New("cp: a path is empty")}
		}
		return place{path: text}, nil
	}
	if reference == "" || file == "" {
		return place{}, usageError{fmt.Errorf("cp: %q: want SANDBOX:PATH, or a path of this host with ./ in front", text)}
	}
	if !path.IsAbs(file) {
		file = "/" + file
	}
	return place{reference, file}, nil
}

// intoDirectory is the destination of a file that is copied to a place that is a directory, as it is written or known.
func (p place) intoDirectory(source string, isDirectory bool) string {
	if strings.HasSuffix(p.path, "/") || isDirectory {
		return path.Join(p.path, path.Base(path.Clean(source))) // never the directory above
	}
	return p.path
}

func copyFiles(c *cli.Context) error {
	from, err := parsePlace(c.Args().Get(0))
	if err != nil {
		return err
	}
	to, err := parsePlace(c.Args().Get(1))
	if err != nil {
		return err
	}
	remote := to
	if from.reference != "" {
		remote = from
	}
	if (from.reference == "") == (to.reference == "") {
		return usageError{errors.New("cp: want one path of this host and one of a sandbox, SANDBOX:PATH")}
	}
	asTree := c.Bool("recursive") || from.path == "-" && from.reference == "" || to.path == "-" && to.reference == ""
	if to.path == "-" && to.reference == "" && isTerminal(c.App.Writer) {
		return usageError{errors.New("cp: an archive is nothing for a terminal, to which the container could speak by it: write it to a file")}
	}
	if asTree && c.Bool("guest") {
		return usageError{errors.New("cp: the guest has no tar(1): with --guest, copy file by file")}
	}
	find := findContainer
	if c.Bool("guest") {
		find = findSandbox
	}
	found, err := find(c, remote.reference)
	if err != nil {
		return err
	}
	if asTree {
		return copyTree(c, found, from, to)
	}
	agent, err := openAgent(c.Context, found)
	if err != nil {
		return err
	}
	defer agent.Close()
	root := "/"
	if !c.Bool("guest") {
		root = path.Join(protocol.ContainersDir, found.Container.ID, "rootfs")
	}
	if to.reference != "" {
		return upload(c.Context, agent, from.path, path.Join(root, path.Clean(to.intoDirectory(from.path, false))), c.App.ErrWriter)
	}
	info, err := os.Stat(to.path)
	file := to.intoDirectory(from.path, err == nil && info.IsDir())
	return download(c.Context, agent, path.Join(root, path.Clean(from.path)), file, c.App.ErrWriter)
}

// upload copies a file of this host, with its mode.
func upload(ctx context.Context, agent *client.Requests, from, to string, screen io.Writer) error {
	file, err := os.Open(from)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no regular file: copy directories with -r", from)
	}
	bar := newMeter(screen, filepath.Base(from), info.Size())
	defer bar.clear()
	return agent.Upload(ctx, to, uint32(info.Mode().Perm()), uint64(info.Size()), io.TeeReader(file, bar))
}

// download copies a file to this host. It appears whole or not at all.
func download(ctx context.Context, agent *client.Requests, from, to string, screen io.Writer) (err error) {
	file, err := os.CreateTemp(filepath.Dir(to), "."+filepath.Base(to)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			file.Close()
			os.Remove(file.Name())
		}
	}()
	bar := newMeter(screen, path.Base(from), -1)
	defer bar.clear()
	if _, err := agent.Download(ctx, from, io.MultiWriter(file, bar)); err != nil {
		return err
	}
	if err := errors.Join(file.Chmod(defaultMode), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), to)
}

// defaultMode is that of a file whose own is not known.
const defaultMode = 0o644
