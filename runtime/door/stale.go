package door

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// answerTimeout is how long who listens may take to accept a connection: the kernel does it, unless too many wait.
const answerTimeout = 10 * time.Second

// Clear removes a socket that nobody listens on any more, so that there can be a door. network is as in Open. ErrAlreadyExists: somebody
// listens there, or it is no socket.
func Clear(network, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at the socket's path: %w", err)
	}
	if info.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s is no socket: choose another path: %w", path, errdefs.ErrAlreadyExists)
	}
	conn, err := net.DialTimeout(network, path, answerTimeout)
	switch {
	case err == nil:
		conn.Close()
		return fmt.Errorf("%s: somebody listens there already: end that one first, or choose another path: %w", path, errdefs.ErrAlreadyExists)
	case !errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("look who listens on %s: %w", path, err)
	}
	return os.Remove(path)
}
