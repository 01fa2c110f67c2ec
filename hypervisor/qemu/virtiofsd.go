package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/limpet-run/limpet/hypervisor"
	"github.com/limpet-run/limpet/hypervisor/internal/child"
)

// virtiofsdPlaces is where virtiofsd is looked for after PATH: Debian 13's package (the one in Rust), then Debian 12's
// qemu-system-common (the one in C).
var virtiofsdPlaces = []string{"/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"}

// virtiofsdKind tells the two programs of that name apart: they do the same and share no option.
type virtiofsdKind int

const (
	virtiofsdC    virtiofsdKind = iota // part of QEMU up to 7.2
	virtiofsdRust                      // gitlab.com/virtio-fs/virtiofsd
)

// String implements fmt.Stringer.
func (k virtiofsdKind) String() string {
	if k == virtiofsdC {
		return "C"
	}
	return "Rust"
}

// maxOpenFiles is what a daemon may hold open, if our own limit allows it: a file that the guest knows of is an open file.
const maxOpenFiles = 1 << 20

// virtiofsdFD is the number of the listening socket in the daemon.
const virtiofsdFD = 3

// findVirtiofsd returns the path of the configured program, or of the first that there is.
func findVirtiofsd(configured string) (string, error) {
	candidates := append([]string{"virtiofsd"}, virtiofsdPlaces...)
	if configured != "" {
		candidates = []string{configured}
	}
	for _, candidate := range candidates {
		if path, err := exec.LookPath(candidate); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("virtiofsd not found (looked for %s): install the package virtiofsd (Debian 12: qemu-system-common), or set its "+
		"path in the configuration: %w", strings.Join(candidates, ", "), errdefs.ErrNotFound)
}

// detectVirtiofsd asks the program which of the two it is.
func detectVirtiofsd(ctx context.Context, path string) (virtiofsdKind, error) {
	output, err := exec.CommandContext(ctx, path, "--version").CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%s --version: %w: %s: reinstall it, or set another in the configuration", path, err,
			strings.TrimSpace(string(output[:min(len(output), 512)])))
	}
	return virtiofsdKindOf(string(output)), nil
}

// virtiofsdKindOf reads the answer to --version. Only the C program's speaks of FUSE.
func virtiofsdKindOf(version string) virtiofsdKind {
	if strings.Contains(version, "FUSE kernel interface") {
		return virtiofsdC
	}
	return virtiofsdRust
}

// virtiofsdArguments serves dir on the inherited socket. Both kinds: extended attributes (file capabilities are some), mounts below
// dir announced so that files of two mounts cannot be taken for one, and the default sandbox: a mount namespace whose root is dir
// and which still receives mounts made on the host.
//
// What the guest has read stays in its cache for as long as size and time of the file are the same, at which it looks again after
// a second: with the C daemon by "always" with that time. Its "auto", like the Rust one's, drops a file's pages each time that it is
// opened, which costs an exec 10 ms of 55 under emulation; the Rust one's "always" never looks again.
func virtiofsdArguments(kind virtiofsdKind, dir string, openFiles uint64) []string {
	if kind == virtiofsdC {
		return []string{
			fmt.Sprintf("--fd=%d", virtiofsdFD),
			fmt.Sprintf("--rlimit-nofile=%d", openFiles),
			"-o", "source=" + strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(dir),
			"-o", "cache=always,timeout=1,sandbox=namespace,xattr,announce_submounts,log_level=warn",
		}
	}
	return []string{
		fmt.Sprintf("--fd=%d", virtiofsdFD),
		fmt.Sprintf("--rlimit-nofile=%d", openFiles),
		"--shared-dir=" + dir,
		"--cache=auto", "--sandbox=namespace", "--xattr", "--announce-submounts", "--log-level=warn",
	}
}

// openFilesLimit keeps below our own hard limit, which only a privileged process can raise.
func openFilesLimit() (uint64, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("read the limit of open files: %w", err)
	}
	return min(limit.Max, maxOpenFiles), nil
}

// startVirtiofsd serves share. It returns the daemon and a connection to it, which is the caller's to close. The daemon gets a
// socket that listens already, so there is nothing to wait for; the socket's name is gone once it is connected.
func (p *plan) startVirtiofsd(ctx context.Context, share hypervisor.Share) (daemon *child.Child, connection *os.File, err error) {
	kind, err := detectVirtiofsd(ctx, p.virtiofsd)
	if err != nil {
		return nil, nil, err
	}
	openFiles, err := openFilesLimit()
	if err != nil {
		return nil, nil, err
	}
	listening, connection, err := listenAndConnect(filepath.Join(p.config.Dir, share.ID+".sock"))
	if err != nil {
		return nil, nil, fmt.Errorf("make the socket of virtiofsd: %w", err)
	}
	defer func() { err = errors.Join(err, listening.Close()) }()
	command := exec.Command(p.virtiofsd, virtiofsdArguments(kind, share.Dir, openFiles)...)
	command.ExtraFiles = []*os.File{listening}
	daemon, err = child.Start("virtiofsd", command, p.config.Cgroup)
	if err != nil {
		return nil, nil, errors.Join(err, connection.Close())
	}
	return daemon, connection, nil
}

// listenAndConnect makes a listening unix socket with one connection waiting on it. Both files are the caller's.
func listenAndConnect(path string) (listening, connected *os.File, err error) {
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, nil, err
	}
	defer listener.Close() // removes the name
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close()
	if listening, err = listener.File(); err != nil {
		return nil, nil, err
	}
	if connected, err = conn.File(); err != nil {
		return nil, nil, errors.Join(err, listening.Close())
	}
	return listening, connected, nil
}
