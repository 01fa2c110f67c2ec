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

	"github.com/limpet-run/limpet/internal/printable"
	"github.com/limpet-run/limpet/runtime"
	"github.com/limpet-run/limpet/runtime/execsidecar"
)

// copyTree copies a directory or file with all that is below it, or an archive.
func copyTree(c *cli.Context, found runtime.Found, from, to place) error {
	switch {
	case from.path == "-":
		return tarIn(c.Context, found, to.path, func(archive io.Writer) error {
			_, err := io.Copy(archive, c.App.Reader)
			return err
		})
	case to.path == "-":
		return tarOut(c.Context, found, from.path, func(archive io.Reader) error {
			_, err := io.Copy(c.App.Writer, archive)
			return err
		})
	case to.reference != "":
		return sendTree(c, found, from.path, path.Clean(to.intoDirectory(baseName(from.path), false)))
	}
	info, err := os.Stat(to.path)
	return fetchTree(c, found, path.Clean(from.path), filepath.Clean(to.intoDirectory(from.path, err == nil && info.IsDir())))
}

// baseName is the name of a tree of this host that is copied: that of . is the directory's.
func baseName(tree string) string {
	if absolute, err := filepath.Abs(tree); err == nil {
		tree = absolute
	}
	return filepath.Base(tree)
}

// sendTree copies a tree of this host into a container.
func sendTree(c *cli.Context, found runtime.Found, tree, destination string) error {
	if destination == "/" {
		return usageError{errors.New("cp: a tree cannot take the place of /: write the directory that is to be made below it")}
	}
	if _, err := os.Lstat(tree); err != nil {
		return err
	}
	bar := newMeter(c.App.ErrWriter, baseName(tree), -1)
	defer bar.clear()
	var left []string
	err := tarIn(c.Context, found, path.Dir(destination), func(archive io.Writer) (err error) {
		left, err = packTree(io.MultiWriter(archive, bar), tree, path.Base(destination))
		return err
	})
	bar.clear()
	return errors.Join(err, leftOut(left))
}

// fetchTree copies a tree of a container to this host.
func fetchTree(c *cli.Context, found runtime.Found, tree, destination string) error {
	if tree == "/" {
		return usageError{errors.New("cp: / has no name to be copied as: copy the directories below it, or SANDBOX:/ to -")}
	}
	bar := newMeter(c.App.ErrWriter, path.Base(tree), -1)
	defer bar.clear()
	var left []string
	err := tarOut(c.Context, found, tree, func(archive io.Reader) (err error) {
		left, err = unpackTree(io.TeeReader(archive, bar), path.Base(tree), filepath.Dir(destination), filepath.Base(destination))
		if err == nil {
			_, err = io.Copy(io.Discard, archive) // zeros behind the archive
		}
		return err
	})
	bar.clear()
	return errors.Join(err, leftOut(left))
}

// leftOut is an error if something was not copied.
func leftOut(names []string) error {
	if len(names) == 0 {
		return nil
	}
	return fmt.Errorf("all was copied but %d devices, pipes or sockets, the first is %s", len(names), printable.Line(names[0]))
}

// tarIn has the container's tar unpack, in a directory, what is written.
func tarIn(ctx context.Context, found runtime.Found, directory string, write func(io.Writer) error) error {
	reader, writer, err := os.Pipe()
	if err != nil {
		return err
	}
	return runTar(ctx, found, []string{"-x", "-f", "-", "-C", directory}, execsidecar.Files{reader, nil, nil}, func() error {
		defer writer.Close()
		return write(writer)
	}, writer)
}

// tarOut has the container's tar pack a tree, which is read. Behind the archive everything is read.
func tarOut(ctx context.Context, found runtime.Found, tree string, read func(io.Reader) error) error {
	reader, writer, err := os.Pipe()
	if err != nil {
		return err
	}
	arguments := []string{"-c", "-f", "-", "-C", path.Dir(tree), "--", path.Base(tree)}
	if tree == "/" {
		arguments = []string{"-c", "-f", "-", "-C", "/", "."}
	}
	return runTar(ctx, found, arguments, execsidecar.Files{nil, writer, nil}, func() error { return read(reader) }, reader)
}

// maxTarErrors is how many bytes of what tar complains of are shown.
const maxTarErrors = 4 << 10

// runTar runs tar with these files, which it closes, and exchanges bytes with it at the other end, which it closes too.
func runTar(ctx context.Context, found runtime.Found, arguments []string, files execsidecar.Files, exchange func() error, end *os.File,
) error {
	complaints, complain, err := os.Pipe()
	if err != nil {
		return err
	}
	defer complaints.Close()
	files[2] = complain
	said := make(chan []byte, 1)
	go func() {
		text, _ := io.ReadAll(io.LimitReader(complaints, maxTarErrors))
		_, _ = io.Copy(io.Discard, complaints)
		said <- text
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	exchanged := make(chan error, 1)
	go func() {
		err := exchange()
		if err != nil && !errors.Is(err, errNothingSent) && !errors.Is(err, io.ErrUnexpectedEOF) {
			cancel() // tar has nobody to speak with; at an early end it says itself what is wrong
		}
		exchanged <- err
	}()
	command := execsidecar.NewCommand("tar", arguments...)
	command.UID, command.GID = 0, 0 // as the files of a container that are copied one by one
	result, err := runCommandIn(ctx, found, command, files, nil)
	for _, file := range files {
		if file != nil {
			file.Close()
		}
	}
	if err != nil || result.ExitCode() != 0 {
		end.Close() // nobody is at the other end
	}
	exchangeErr := <-exchanged
	end.Close()
	text := strings.ReplaceAll(strings.TrimSpace(string(<-said)), "\n", "; ")
	switch {
	case ctx.Err() == nil && err != nil:
		return fmt.Errorf("tar: %w", err)
	case err == nil && result.ExitCode() != 0:
		return fmt.Errorf("tar in the container failed with %d: %s", result.ExitCode(), printable.Line(text))
	case exchangeErr != nil:
		return exchangeErr
	}
	return err
}
