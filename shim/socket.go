package shim

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// defaultSocketDir is where shim sockets are if containerd does not say: its default state directory, whatever its own is, as socket
	// paths are short.
	defaultSocketDir = "/run/containerd/s"
	// maxSocketPath is one less than sun_path, for the zero at its end that containerd counts in.
	maxSocketPath = 106
	// connectTimeout tells a server from a stale socket; a socket that is listened on accepts at once, even if its server is busy.
	connectTimeout = 100 * time.Millisecond
)

// socketPath is the path of a sandbox's socket, the same for each `start` of a container of it.
func socketPath(dir, containerdAddress, namespace, id string) (string, error) {
	if dir == "" {
		dir = defaultSocketDir
	}
	sum := sha256.Sum256([]byte(filepath.Join(containerdAddress, namespace, id)))
	path := filepath.Join(dir, fmt.Sprintf("%x", sum))
	if len(path) > maxSocketPath {
		return "", fmt.Errorf("socket path %q is longer than %d bytes: choose a shorter socket directory", path, maxSocketPath)
	}
	return path, nil
}

// errServed says that a server listens on the socket already.
var errServed = errors.New("a shim serves this socket")

// listen makes the socket, for its owner only. A socket that nobody serves any more is replaced. Closing the listener leaves the socket.
func listen(path string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	listener, err := listenPrivate(path)
	if !errors.Is(err, unix.EADDRINUSE) {
		return listener, err
	}
	if served(path) {
		return nil, fmt.Errorf("%s: %w", path, errServed)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove stale socket: %w", err)
	}
	return listenPrivate(path)
}

// listenPrivate makes the socket under a umask, which is the process's, so that there is no moment in which others could connect.
func listenPrivate(path string) (*net.UnixListener, error) {
	defer unix.Umask(unix.Umask(0o177))
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false)
	return listener, nil
}

func served(path string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	connection, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return false
	}
	connection.Close()
	return true
}

// removeStaleSocket removes a socket that nobody serves.
func removeStaleSocket(path string) error {
	if served(path) {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove stale socket: %w", err)
	}
	return nil
}
