package install

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	continuity "github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
)

// hostPath is where programs of a host are looked for that is mounted somewhere: the directories that systemd gives its services.
const hostPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// host is the host's files and programs, below a root. Its symbolic links mean what they mean on the host.
type host struct{ root string }

func newHost(root string) host { return host{filepath.Clean(root)} }

// mounted tells whether the host's root is not that of this process.
func (h host) mounted() bool { return h.root != "/" }

// path returns where a path of the host is for this process.
func (h host) path(path string) (string, error) { return continuity.RootPath(h.root, path) }

// read returns a file's text and permissions; nil if there is no such file.
func (h host) read(path string) ([]byte, fs.FileMode, error) {
	path, err := h.path(path)
	if err != nil {
		return nil, 0, err
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	text, err := os.ReadFile(path)
	return append([]byte{}, text...), info.Mode().Perm(), err
}

// program returns the host's path of one of its programs (ErrNotFound).
func (h host) program(name string) (string, error) {
	list := hostPath
	if !h.mounted() {
		list = os.Getenv("PATH")
	}
	for _, dir := range filepath.SplitList(list) {
		program := filepath.Join(dir, name)
		path, err := h.path(program)
		if err != nil {
			return "", err
		}
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0 {
			return program, nil
		}
	}
	return "", fmt.Errorf("program %s is not in %s: %w", name, list, errdefs.ErrNotFound)
}

// command runs a program as the host would. Its root is the host's.
func (h host) command(ctx context.Context, program string, arguments ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, arguments...)
	if h.mounted() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: h.root}
		cmd.Dir = "/"
		// systemctl takes a changed root for a system that is only being made.
		cmd.Env = []string{"PATH=" + hostPath, "SYSTEMD_IGNORE_CHROOT=1"}
	}
	return cmd
}

// sameFile tells whether two paths are one directory.
func sameFile(a, b string) (bool, error) {
	left, err := os.Stat(a)
	if err != nil {
		return false, err
	}
	right, err := os.Stat(b)
	return err == nil && os.SameFile(left, right), err
}

// sameContent tells whether target has the content of source, and the mode. The source must be there.
func sameContent(source, target string, mode fs.FileMode) (bool, error) {
	from, err := os.Open(source)
	if err != nil {
		return false, err
	}
	defer from.Close()
	to, err := os.Open(target)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer to.Close()
	info, err := to.Stat()
	if err != nil || info.Mode().Perm() != mode {
		return false, err
	}
	return sameBytes(bufio.NewReader(from), bufio.NewReader(to))
}

func sameBytes(a, b io.ByteReader) (bool, error) {
	for {
		left, leftErr := a.ReadByte()
		right, rightErr := b.ReadByte()
		switch {
		case errors.Is(leftErr, io.EOF) && errors.Is(rightErr, io.EOF):
			return true, nil
		case errors.Is(leftErr, io.EOF), errors.Is(rightErr, io.EOF):
			return false, nil
		case leftErr != nil || rightErr != nil:
			return false, errors.Join(leftErr, rightErr)
		case left != right:
			return false, nil
		}
	}
}
